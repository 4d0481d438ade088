package router

import (
	"context"
	"regexp"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
)

// API is the server API as a NATS service: a request on <prefix>.api.<method> is
// answered by one of the nodes.
type API struct {
	Methods []string
	// Call answers one request. It may block until ctx ends.
	Call func(ctx context.Context, method string, c APICall) APIAnswer
	// MaxInflight bounds the requests this node works on; what comes above it is
	// answered with Exhausted.
	MaxInflight int
	Exhausted   APIAnswer
	// TooLarge answers when the real answer is larger than NATS carries.
	TooLarge APIAnswer
}

// APICall is one request.
type APICall struct {
	Body []byte
	// TraceParent is the header of that name (W3C Trace Context), or "".
	TraceParent string
}

// APIAnswer is what a request is answered: Body, and for an error Code and
// Message in the headers that NATS services use.
type APIAnswer struct {
	Body    []byte
	Code    uint32 // 0 is success
	Message string
}

const (
	serviceName  = "headrace"
	serviceQueue = "headrace-api" // one node answers each request
)

// ServeAPI makes Run offer a to whoever NATS lets publish on <prefix>.api.>. It
// is called before Run.
func (n *Node) ServeAPI(a API) { n.api = &a }

// startAPI starts the service, if there is one. The returned function ends it.
func (n *Node) startAPI() (stop func(), err error) {
	if n.api == nil {
		return func() {}, nil
	}
	svc, err := micro.AddService(n.cfg.Core, micro.Config{
		Name: serviceName, Version: serviceVersion(n.cfg.Version), QueueGroup: serviceQueue,
		Description: "Headrace server API",
		Metadata:    map[string]string{"node": n.cfg.NodeID, "node_name": n.cfg.NodeName},
	})
	if err != nil {
		return nil, err
	}
	stop = func() { svc.Stop() } //nolint:errcheck // fails only when the connection is closed
	slots := make(chan struct{}, n.api.MaxInflight)
	group := svc.AddGroup(n.cfg.Prefix + ".api")
	for _, method := range n.api.Methods {
		err := group.AddEndpoint(method, micro.HandlerFunc(func(req micro.Request) { n.serveCall(slots, method, req) }))
		if err != nil {
			stop()
			return nil, err
		}
	}
	return stop, nil
}

// serveCall is called on the goroutine of the method's subscription.
func (n *Node) serveCall(slots chan struct{}, method string, req micro.Request) {
	select {
	case slots <- struct{}{}:
	default:
		n.respond(req, n.api.Exhausted)
		return
	}
	call := APICall{Body: req.Data(), TraceParent: req.Headers().Get(traceParentHeader)}
	// Through a shard: after the node has stopped no goroutine may start.
	posted := n.shards[0].post(func() {
		n.wg.Go(func() {
			defer func() { <-slots }()
			n.respond(req, n.api.Call(n.ctx, method, call))
		})
	})
	if !posted {
		<-slots
	}
}

// respond sends a. It must not use req to do so: the library looks at what its own
// Respond and Error leave there as soon as serveCall has returned. So `nats micro
// stats` counts requests, but neither their time nor errors.
func (n *Node) respond(req micro.Request, a APIAnswer) {
	if limit := n.cfg.Core.MaxPayload(); limit > 0 && int64(len(a.Body)) > limit {
		a = n.api.TooLarge
	}
	m := &nats.Msg{Subject: req.Reply(), Data: a.Body}
	if a.Code != 0 {
		m.Header = nats.Header{
			micro.ErrorCodeHeader: []string{strconv.FormatUint(uint64(a.Code), 10)},
			micro.ErrorHeader:     []string{headerText(a.Message)},
		}
	}
	if m.Subject == "" {
		return // published without wanting an answer
	}
	if err := n.cfg.Core.PublishMsg(m); err != nil {
		n.log.Warn("api answer not sent", "err", err)
	}
}

var semver = regexp.MustCompile(`^(\d+)\.(\d+)\.(\d+)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?$`)

// serviceVersion is v as NATS services need it, a semantic version.
func serviceVersion(v string) string {
	v = strings.TrimPrefix(v, "v")
	if semver.MatchString(v) {
		return v
	}
	return "0.0.0"
}

// traceParentHeader carries a trace across services (W3C Trace Context). Header
// names of NATS are case-sensitive; this is the standard's spelling.
const traceParentHeader = "traceparent"
