// Package webui serves the demo: a chat room that shows what the cluster does, and
// a page to push jobs and work on them. Everything is embedded in the binary; the page loads nothing from
// elsewhere.
package webui

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"net/http"
	"regexp"
	"strings"
	"unicode/utf8"
)

//go:embed static
var static embed.FS

// Mint signs a connection token for user, whom others see as info (JSON).
type Mint func(user string, info []byte) (string, error)

// Bounds of a request for a token.
const (
	maxTokenRequest = 1024 // bytes
	maxName         = 32   // characters
)

// contentPolicy lets the page load its own files and talk to its own host only.
const contentPolicy = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves the pages at / and /queue.html, their tokens at POST /demo/token,
// and the state of the queues at GET /demo/queues; queues may be nil.
func Handler(mint Mint, queues Queues) http.Handler {
	files, err := fs.Sub(static, "static")
	if err != nil { // cannot happen: the directory is embedded
		panic("webui: " + err.Error())
	}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.Handle("POST /demo/token", tokens(mint))
	if queues != nil {
		mux.Handle("GET /demo/queues", (&states{queues: queues}).handler())
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		mux.ServeHTTP(w, r)
	})
}

var color = regexp.MustCompile(`^#[0-9a-f]{6}$`)

// tokens answers {"token": …, "user": …} to {"device": …, "name": …, "color": …}.
// The user id is derived from the device's secret, so that a page keeps its user
// and nobody else can take it.
func tokens(mint Mint) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
			http.Error(w, "send application/json", http.StatusUnsupportedMediaType) // a form of another site cannot
			return
		}
		var request struct {
			Device string `json:"device"`
			Name   string `json:"name"`
			Color  string `json:"color"`
		}
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxTokenRequest)).Decode(&request)
		name := strings.TrimSpace(request.Name)
		switch {
		case err != nil:
			http.Error(w, "the request is not the JSON expected", http.StatusBadRequest)
			return
		case len(request.Device) < 16 || name == "" || utf8.RuneCountInString(name) > maxName || !color.MatchString(request.Color):
			http.Error(w, "device needs 16 characters, name 1 to 32, color is #rrggbb", http.StatusBadRequest)
			return
		}
		digest := sha256.Sum256([]byte("headrace demo " + request.Device))
		user := "demo-" + hex.EncodeToString(digest[:8])
		info, err := json.Marshal(map[string]string{"name": name, "color": request.Color})
		if err != nil {
			http.Error(w, "internal error", http.StatusInternalServerError)
			return
		}
		signed, err := mint(user, info)
		if err != nil {
			http.Error(w, "internal error", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"token": signed, "user": user}) // the peer may be gone
	}
}
