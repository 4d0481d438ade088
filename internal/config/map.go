package config

import "time"

// Map makes the channels of a namespace maps. Package router defines the meaning;
// its MapOptions has the same fields.
type Map struct {
	Mode           string        `yaml:"mode" doc:"persistent or ephemeral: channels are maps of keys with versioned values, and history_size (1000 unless set) is how many changes are kept for clients that come back; empty: they are not"`
	KeyTTL         time.Duration `yaml:"key_ttl" doc:"how long a key lives after its last change, unless the change says otherwise; 0 is for ever, else at least 1s"`
	KeyHistory     int           `yaml:"key_history" doc:"versions kept of each key, 1 to 100"`
	TombstoneTTL   time.Duration `yaml:"tombstone_ttl" doc:"how long a removed key keeps its version numbers; afterwards it starts again at 1, with another life"`
	Conflict       string        `yaml:"conflict" doc:"strategy of changes that name none: reject, lastWriteWins, merge or custom"`
	ConflictMethod string        `yaml:"conflict_method" doc:"rpc method of the back end that decides with the strategy custom"`
	MaxValueBytes  int           `yaml:"max_value_bytes" doc:"largest value"`
	MaxKeys        int           `yaml:"max_keys" doc:"keys in a channel, at most 200000"`
	ClientKey      string        `yaml:"client_key" doc:"client_id or user_id: clients may change only the key that has their id as its name; empty is any key"`
	RemoveOnLeave  bool          `yaml:"remove_on_unsubscribe" doc:"a client's own key is removed when its subscription or connection ends; needs client_key client_id and key_ttl, which does it when the node is killed"`
	AllowRemove    bool          `yaml:"allow_remove" doc:"clients with a user id may remove keys"`

	AllowRemoveSubscriber bool `yaml:"allow_remove_for_subscriber" doc:"subscribers may remove keys"`
}

// defaultFeedSize is the history_size of maps: what a client may miss without
// having to read the whole state again.
const defaultFeedSize = 1000

// withMapDefaults fills the fields of a namespace of maps that have a default.
func withMapDefaults(ns Namespace) Namespace {
	if ns.HistorySize == 0 {
		ns.HistorySize = defaultFeedSize
	}
	m := &ns.Map
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&m.KeyHistory, 10)
	def(&m.MaxValueBytes, 64<<10)
	def(&m.MaxKeys, 100_000)
	if m.TombstoneTTL == 0 {
		m.TombstoneTTL = 24 * time.Hour
	}
	if m.Conflict == "" {
		m.Conflict = "reject"
	}
	return ns
}
