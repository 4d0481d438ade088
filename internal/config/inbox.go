package config

import "time"

// Inbox is the inboxes of users.
type Inbox struct {
	Enabled         bool          `yaml:"enabled" doc:"gives every user an inbox"`
	Namespace       string        `yaml:"namespace" doc:"namespace of the inboxes: that of user 42 is the channel <namespace>:#42; it must not be among namespaces"`
	HistorySize     int           `yaml:"history_size" doc:"messages an inbox keeps; the oldest goes for a new one"`
	Retention       time.Duration `yaml:"retention" doc:"how long a message is kept"`
	Partitions      int           `yaml:"partitions" doc:"streams the inboxes are spread over"`
	MemoryStorage   bool          `yaml:"memory_storage" doc:"inboxes and cursors in memory: faster, gone when NATS restarts"`
	MaxMessageBytes int           `yaml:"max_message_bytes" doc:"largest data of a message; a full inbox must fit into client.queue_bytes"`
	AllowSend       bool          `yaml:"allow_send" doc:"clients with a user id may send to every user; without it only the server API may"`
	AutoSubscribe   bool          `yaml:"auto_subscribe" doc:"every client with a user id is subscribed to its inbox when it connects"`
	MaxDevices      int           `yaml:"max_devices" doc:"devices of a user with a cursor; for one more, the one whose cursor was written longest ago is forgotten"`
	DeviceTTL       time.Duration `yaml:"device_ttl" doc:"how long the cursor of a device that does not show up is kept"`
}

func defaultInbox() Inbox {
	return Inbox{
		Namespace: "inbox", HistorySize: 200, Retention: 30 * 24 * time.Hour, Partitions: 1,
		MaxMessageBytes: 4096, MaxDevices: 32, DeviceTTL: 90 * 24 * time.Hour,
	}
}

const (
	// inboxOverhead stands for what a message has besides its data when it is told to
	// a client: number, time, who sent it.
	inboxOverhead = 512
	// inboxChannelBytes is the longest name of an inbox without its namespace.
	inboxChannelBytes = 130
)

func validateInbox(cfg *Config, check checkFunc) {
	in := &cfg.Inbox
	if !in.Enabled {
		return
	}
	check(in.Namespace != "default", "inbox.namespace", `"default" has channels without a namespace; choose another name`)
	for _, ns := range cfg.Namespaces {
		check(ns.Name != in.Namespace, "inbox.namespace", "%q is among namespaces too; choose another name, or remove it there", in.Namespace)
	}
	check(in.HistorySize >= 1 && in.HistorySize <= 1000, "inbox.history_size", "%d is not within 1 to 1000", in.HistorySize)
	check(in.Retention >= time.Minute, "inbox.retention", "%v is below 1m", in.Retention)
	check(in.MaxMessageBytes >= 1, "inbox.max_message_bytes", "%d must be positive", in.MaxMessageBytes)
	check(in.HistorySize*(in.MaxMessageBytes+inboxOverhead) <= cfg.Client.QueueBytes, "inbox.max_message_bytes",
		"%d for each of history_size %d messages is more than client.queue_bytes %d: a device that was away could not be given its inbox; lower one, or raise that", in.MaxMessageBytes, in.HistorySize, cfg.Client.QueueBytes)
	check(cfg.Client.ChannelMaxLength >= len(in.Namespace)+inboxChannelBytes, "client.channel_max_length", "%d is below the %d that inboxes need", cfg.Client.ChannelMaxLength, len(in.Namespace)+inboxChannelBytes)
	check(in.MaxDevices >= 1 && in.MaxDevices <= 500, "inbox.max_devices", "%d is not within 1 to 500", in.MaxDevices)
	check(in.DeviceTTL >= time.Hour, "inbox.device_ttl", "%v is below 1h", in.DeviceTTL)
}
