package persistence

import (
	"strconv"
	"strings"

	"github.com/headrace/headrace/internal/natsperm"
)

// streamsOf returns the names of the streams of cfg: those of logs, those of the
// state of maps, and all. With userLimit the store of user limits is among them.
func streamsOf(cfg *Config, userLimit bool) (logs, keys, all []string) {
	upper := strings.ToUpper(cfg.Prefix)
	for _, ns := range cfg.Namespaces {
		for partition := range ns.Partitions {
			if ns.HistorySize > 0 {
				logs = append(logs, upper+"_LOG_"+ns.Name+"_"+strconv.Itoa(partition))
			}
			if ns.Map != nil {
				keys = append(keys, upper+"_KEYS_"+ns.Name+"_"+strconv.Itoa(partition))
			}
		}
	}
	all = append(append(all, logs...), keys...)
	if len(logs) > 0 {
		all = append(all, upper+"_IN", upper+"_DEAD_in")
	}
	if cfg.Cursors.Enabled {
		all = append(all, cursorsStream(cfg.Prefix))
	}
	if userLimit {
		all = append(all, userLimitStream(cfg.Prefix))
	}
	return logs, keys, all
}

func publishRule(subject, need string) natsperm.Rule {
	return natsperm.Rule{Direction: natsperm.Publish, Subject: subject, Need: need}
}

// Permissions returns what a NATS user must be allowed for a store with cfg whose
// streams are there already. userLimit says whether Store.UserLimit is used.
func Permissions(cfg Config, userLimit bool) []natsperm.Rule {
	cfg = cfg.withDefaults()
	logs, keys, all := streamsOf(&cfg, userLimit)
	var rules []natsperm.Rule
	add := func(subject, need string) { rules = append(rules, publishRule(subject, need)) }
	for _, name := range all {
		add("$JS.API.STREAM.INFO."+name, "look up the stream, reach its leader")
	}
	for _, name := range logs {
		add("$JS.API.STREAM.MSG.GET."+name, "read the newest entry at the leader")
		add("$JS.API.DIRECT.GET."+name, "read entries")
		add("$JS.API.STREAM.PURGE."+name, "remove a channel's history")
	}
	for _, name := range keys {
		add("$JS.API.STREAM.MSG.GET."+name, "read a key at the leader")
		add("$JS.API.DIRECT.GET."+name, "read state")
		add("$JS.API.STREAM.PURGE."+name, "remove a channel's state, forget removed keys")
	}
	for _, ns := range cfg.Namespaces {
		if ns.Map != nil {
			add(cfg.Prefix+".key."+ns.Name+".>", "store the state of "+ns.Name)
		}
		if ns.HistorySize > 0 {
			add(cfg.Prefix+".log."+ns.Name+".>", "append to the history of "+ns.Name)
		}
	}
	if len(logs) > 0 {
		in := strings.ToUpper(cfg.Prefix) + "_IN." + ingestConsumer
		add("$JS.API.CONSUMER.INFO."+in, "look up the consumer of plain NATS publications")
		add("$JS.API.CONSUMER.MSG.NEXT."+in, "take plain NATS publications")
		add("$JS.ACK."+in+".>", "acknowledge plain NATS publications")
		add(cfg.Prefix+".dead.in.*", "put aside plain NATS publications that no log takes")
	}
	if cfg.Cursors.Enabled {
		name := cursorsStream(cfg.Prefix)
		add("$JS.API.STREAM.MSG.GET."+name, "read a device's cursor at the leader")
		add("$JS.API.DIRECT.GET."+name, "list the devices of a user")
		add("$JS.API.STREAM.PURGE."+name, "forget a device")
		add(cfg.Prefix+".cur.*.*", "write a device's cursor")
	}
	if userLimit {
		add(cfg.Prefix+".rate.*", "count publications of users")
	}
	return rules
}

// ProvisionPermissions returns what a NATS user must be allowed to make the
// streams of cfg, and to let them grow with it.
func ProvisionPermissions(cfg Config, userLimit bool) natsperm.Set {
	cfg = cfg.withDefaults()
	logs, _, all := streamsOf(&cfg, userLimit)
	s := natsperm.Set{Rules: []natsperm.Rule{{
		Direction: natsperm.Subscribe, Subject: natsperm.InboxPrefix(cfg.Prefix) + ".>", Need: "answers",
	}}}
	add := func(subject, need string) { s.Rules = append(s.Rules, publishRule(subject, need)) }
	for _, name := range all {
		add("$JS.API.STREAM.INFO."+name, "see whether the stream is there")
		add("$JS.API.STREAM.CREATE."+name, "make the stream")
		add("$JS.API.STREAM.UPDATE."+name, "let the stream grow with the configuration")
	}
	if len(logs) > 0 {
		in := strings.ToUpper(cfg.Prefix) + "_IN." + ingestConsumer
		add("$JS.API.CONSUMER.INFO."+in, "see whether the consumer is there")
		add("$JS.API.CONSUMER.CREATE."+in, "make the consumer of plain NATS publications")
	}
	return s
}
