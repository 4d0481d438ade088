package jet

import "fmt"

// Error codes of the JetStream API (nats-server server/errors.json).
const (
	CodeMessageNotFound   = 10037
	CodeWrongLastSequence = 10071 // the sequence differs
	CodeLastSequenceBusy  = 10164 // another append is in flight (R3), sometimes spurious
	CodeDuplicateInFlight = 10158 // the same id is in flight (R3)
	CodeBatchDuplicate    = 10201 // an atomic batch holds an id that was stored before
)

// APIError is a refusal by JetStream.
type APIError struct {
	Code    int    `json:"code"`
	ErrCode int    `json:"err_code"`
	Text    string `json:"description"`
}

func (e *APIError) Error() string { return fmt.Sprintf("%s (%d)", e.Text, e.ErrCode) }
