package persistence

import (
	"strconv"
	"strings"

	"github.com/headrace/headrace/internal/natsperm"
)

// PermissionOptions says which parts of the package are used.
type PermissionOptions struct {
	Provision bool // streams and consumers may be made and changed, not only used
	UserLimit bool // Store.UserLimit is used
}

// Permissions returns what a NATS user must be allowed for a store with cfg.
func Permissions(cfg Config, opt PermissionOptions) []natsperm.Rule {
	cfg = cfg.withDefaults()
	var rules []natsperm.Rule
	publish := func(subject, need string) {
		rules = append(rules, natsperm.Rule{Direction: natsperm.Publish, Subject: subject, Need: need})
	}
	stream := func(name string) {
		publish("$JS.API.STREAM.INFO."+name, "look up the stream, reach its leader")
		if opt.Provision {
			publish("$JS.API.STREAM.CREATE."+name, "make the stream")
			publish("$JS.API.STREAM.UPDATE."+name, "let the stream grow with the configuration")
		}
	}
	upper := strings.ToUpper(cfg.Prefix)
	logs := false
	for _, ns := range cfg.Namespaces {
		if ns.HistorySize == 0 {
			continue
		}
		logs = true
		publish(cfg.Prefix+".log."+ns.Name+".>", "append to the history of "+ns.Name)
		for partition := range ns.Partitions {
			name := upper + "_LOG_" + ns.Name + "_" + strconv.Itoa(partition)
			stream(name)
			publish("$JS.API.STREAM.MSG.GET."+name, "read the newest entry at the leader")
			publish("$JS.API.DIRECT.GET."+name, "read entries")
			publish("$JS.API.STREAM.PURGE."+name, "remove a channel's history")
		}
	}
	if logs {
		in := upper + "_IN"
		stream(in)
		stream(upper + "_DEAD_in")
		publish("$JS.API.CONSUMER.INFO."+in+"."+ingestConsumer, "look up the consumer of plain NATS publications")
		publish("$JS.API.CONSUMER.MSG.NEXT."+in+"."+ingestConsumer, "take plain NATS publications")
		publish("$JS.ACK."+in+"."+ingestConsumer+".>", "acknowledge plain NATS publications")
		publish(cfg.Prefix+".dead.in.*", "put aside plain NATS publications that no log takes")
		if opt.Provision {
			publish("$JS.API.CONSUMER.CREATE."+in+"."+ingestConsumer, "make the consumer of plain NATS publications")
		}
	}
	if opt.UserLimit {
		stream(userLimitStream(cfg.Prefix))
		publish(cfg.Prefix+".rate.*", "count publications of users")
	}
	return rules
}
