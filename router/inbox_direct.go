package router

import "encoding/json"

// directJSON is what a session gets of a message that is not stored, as the data
// of a message push: who sends it is the node's word, not the sender's.
type directJSON struct {
	Direct struct {
		User   string          `json:"user,omitempty"`
		Client string          `json:"client,omitempty"`
		Type   string          `json:"type,omitempty"`
		Data   json.RawMessage `json:"data"`
	} `json:"direct"`
}

func directMessage(m Message) ([]byte, error) {
	if m.To == "" {
		return nil, Errorf(CodeInvalid, "user is empty")
	}
	if len(m.Type) > MaxMessageType {
		return nil, Errorf(CodeInvalid, "type is longer than %d bytes", MaxMessageType)
	}
	if len(m.Data) == 0 {
		return nil, Errorf(CodeInvalid, "data is missing")
	}
	data, err := checkPayload(PayloadJSON, m.Data)
	if err != nil {
		return nil, err
	}
	var w directJSON
	w.Direct.Type, w.Direct.Data = m.Type, data
	if m.Info != nil {
		w.Direct.User, w.Direct.Client = m.Info.User, m.Info.Client
	}
	return json.Marshal(w)
}
