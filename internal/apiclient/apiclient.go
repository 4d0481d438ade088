// Package apiclient calls the HTTP API of a running server.
package apiclient

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// maxReply bounds a reply in bytes.
const maxReply = 64 << 20

// Client calls one server. The zero HTTP uses http.DefaultClient.
type Client struct {
	URL  string // scheme and host: http://127.0.0.1:8000
	Key  string // sent as X-API-Key when not empty
	HTTP *http.Client
}

// Error is an answer of the server that is an error.
type Error struct {
	Status  int    `json:"-"` // HTTP status
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string {
	if e.Code == 0 {
		return fmt.Sprintf("the server answered %d %s", e.Status, e.Message)
	}
	return fmt.Sprintf("the server answered error %d: %s", e.Code, e.Message)
}

// Call sends request to method and decodes the result into result, which may be
// nil. It fails with *Error when the server refused.
func (c *Client) Call(ctx context.Context, method string, request, result any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode %s request: %w", method, err)
	}
	base, err := url.Parse(c.URL)
	if err != nil {
		return fmt.Errorf("server url: %w", err)
	}
	if base.Scheme != "http" && base.Scheme != "https" {
		return fmt.Errorf("server url %q does not begin with http:// or https://", c.URL)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base.JoinPath("api", method).String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s request: %w", method, err)
	}
	req.Header.Set("Content-Type", "application/json")
	if c.Key != "" {
		req.Header.Set("X-API-Key", c.Key)
	}
	client := c.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return err // names method and URL already
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return fmt.Errorf("read %s reply: %w", method, err)
	}
	return decode(resp.StatusCode, data, result)
}

func decode(status int, data []byte, result any) error {
	var reply struct {
		Result json.RawMessage `json:"result"`
		Error  *Error          `json:"error"`
	}
	err := json.Unmarshal(data, &reply)
	switch {
	case err == nil && reply.Error != nil:
		reply.Error.Status = status
		return reply.Error
	case status != http.StatusOK:
		return &Error{Status: status, Message: strings.TrimSpace(http.StatusText(status))}
	case err != nil:
		return fmt.Errorf("decode reply: %w", err)
	case result == nil || len(reply.Result) == 0:
		return nil
	}
	if err := json.Unmarshal(reply.Result, result); err != nil {
		return fmt.Errorf("decode result: %w", err)
	}
	return nil
}
