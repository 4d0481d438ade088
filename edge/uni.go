package edge

import (
	"encoding/json"

	"github.com/centrifugal/protocol"
)

// oneWayConnect reads the only message of a one-way client: a connect request.
func oneWayConnect(data []byte) (*protocol.Command, error) {
	var req protocol.ConnectRequest
	if err := json.Unmarshal(data, &req); err != nil {
		return nil, err
	}
	return &protocol.Command{Id: 1, Connect: &req}, nil
}

// appendOneWay appends what a one-way client gets of r: a push, without an envelope.
func (k kind) appendOneWay(b []byte, r *protocol.Reply) ([]byte, error) {
	enc, err := protocol.DefaultJsonPushEncoder.Encode(r.Push)
	if err != nil {
		return b, err
	}
	return k.appendLine(b, enc), nil
}

// oneWayDisconnect is how a client without replies is told an error.
func oneWayDisconnect(p protoError) disconnect {
	switch {
	case p.code == errorTokenExpired.code || p.code == errorExpired.code:
		return disconnectExpired
	case p.temporary:
		return disconnect{disconnectReconnect.code, p.message}
	case p.code == 103:
		return disconnect{codeDenied, p.message}
	}
	return disconnect{disconnectBadRequest.code, p.message}
}
