// Package config reads the configuration of a node: defaults, then a YAML file,
// then HEADRACE_ environment variables, then flags. A key that nobody knows is
// an error at every step, because a misspelt limit is a limit that is off.
package config

import (
	"time"
)

// Config is the whole configuration. The yaml tags are the keys of the file;
// a key's variable is HEADRACE_ and its path in upper case joined by "_".
// docs/operations.md lists them all, and a test compares.
type Config struct {
	Address             string      `yaml:"address" doc:"host:port to serve clients on"`
	Data                string      `yaml:"data" doc:"data directory of the embedded NATS server"`
	NodeName            string      `yaml:"node_name" doc:"name of this node shown to people; the host name when empty"`
	Insecure            bool        `yaml:"insecure" doc:"every client and API call may do everything; loopback only"`
	InsecureAllowRemote bool        `yaml:"insecure_allow_remote" doc:"allows insecure modes on addresses other machines can reach"`
	Demo                bool        `yaml:"demo" doc:"serves the demo chat at / and gives a token to everyone who asks it"`
	TLS                 ServerTLS   `yaml:"tls"`
	Internal            Internal    `yaml:"internal"`
	NATS                NATS        `yaml:"nats"`
	Client              Client      `yaml:"client"`
	Transports          Transports  `yaml:"transports"`
	Limits              Limits      `yaml:"limits"`
	HTTPAPI             HTTPAPI     `yaml:"http_api"`
	RPC                 RPC         `yaml:"rpc"`
	Router              Router      `yaml:"router"`
	Inbox               Inbox       `yaml:"inbox"`
	Log                 Log         `yaml:"log"`
	Namespaces          []Namespace `yaml:"namespaces" doc:"channel rules; the entry named default is for channels without a namespace"`
	Queues              []Queue     `yaml:"queues" doc:"durable queues"`
}

// NATS says where NATS is and how to log in.
type NATS struct {
	URL         string        `yaml:"url" secret:"url" doc:"servers to use, comma separated; empty runs one inside the process"`
	Listen      string        `yaml:"listen" doc:"host:port on which the embedded server takes NATS clients; empty opens none"`
	Credentials string        `yaml:"credentials" doc:"path of a NATS credentials file"`
	NKey        string        `yaml:"nkey" doc:"path of an nkey seed file"`
	User        string        `yaml:"user" doc:"user name"`
	Password    string        `yaml:"password" secret:"true" doc:"password of user"`
	TLS         TLS           `yaml:"tls"`
	Replicas    int           `yaml:"replicas" doc:"copies of every stream, 1, 3 or 5; 0 is 3 in a NATS cluster and 1 elsewhere"`
	Prefix      string        `yaml:"prefix" doc:"first token of every subject and stream name"`
	OpenTimeout time.Duration `yaml:"open_timeout" doc:"how long a start waits for NATS and its streams"`
	API         bool          `yaml:"api" doc:"answers the server API on <prefix>.api.<method> to whoever NATS lets publish there"`
	SyncEvery   time.Duration `yaml:"sync_interval" doc:"longest time between a write and its fsync in the embedded server; 0 is its default, 2m"`
}

// TLS is how connections to NATS are secured.
type TLS struct {
	CA   string `yaml:"ca" doc:"path of the CA certificates to trust"`
	Cert string `yaml:"cert" doc:"path of the client certificate"`
	Key  string `yaml:"key" doc:"path of the client certificate's key"`
}

// Client is what sessions may do and cost.
type Client struct {
	Token            Token         `yaml:"token"`
	SubToken         SubToken      `yaml:"subscription_token"`
	AllowAnonymous   bool          `yaml:"allow_anonymous" doc:"clients may connect without a token"`
	AllowedOrigins   []string      `yaml:"allowed_origins" doc:"origins of web pages that may connect and call the API, * is any; pages of this host always may"`
	PingInterval     time.Duration `yaml:"ping_interval" doc:"time between pings to a client"`
	PongTimeout      time.Duration `yaml:"pong_timeout" doc:"how long a client may take to answer a ping"`
	ConnectTimeout   time.Duration `yaml:"connect_timeout" doc:"how long a new connection may take to send its connect command"`
	WriteTimeout     time.Duration `yaml:"write_timeout" doc:"how long a socket may refuse bytes before the session ends"`
	UnreadyAfter     time.Duration `yaml:"unready_after" doc:"how long a node may be without NATS or a leader before it sends its clients elsewhere, at least 10s"`
	MaxMessageBytes  int           `yaml:"max_message_bytes" doc:"largest frame from a client, after decompression"`
	Compression      bool          `yaml:"compression" doc:"permessage-deflate for WebSocket clients that offer it"`
	CompressionMin   int           `yaml:"compression_min_bytes" doc:"frames with a smaller payload are not compressed"`
	QueueBytes       int           `yaml:"queue_bytes" doc:"bytes that may wait for one client before it is a slow consumer"`
	ChannelLimit     int           `yaml:"channel_limit" doc:"subscriptions of one client"`
	ChannelMaxLength int           `yaml:"channel_max_length" doc:"bytes in a channel's name"`
	MaxInflight      int           `yaml:"max_inflight" doc:"commands of one client that wait for the cluster; at the bound it is not read from"`
	HistoryLimit     int           `yaml:"history_limit" doc:"publications in one history reply to a client"`
	ExpireGrace      time.Duration `yaml:"expire_grace" doc:"how long a session outlives its token, so that the client can bring a new one"`
	DrainWindow      time.Duration `yaml:"drain_window" doc:"time over which a stop spreads the disconnects"`
	WorkerGrace      time.Duration `yaml:"worker_grace" doc:"how long the jobs of a worker whose connection ended wait for it to come back"`
	PersonalNS       string        `yaml:"personal_namespace" doc:"namespace in which every client with a user id is subscribed to its channel #<user>; empty is none"`
}

// Token is how connection tokens are checked.
type Token struct {
	HMACSecretKey string        `yaml:"hmac_secret_key" secret:"true" doc:"key of HS256, HS384 and HS512 tokens"`
	HMACPrevious  string        `yaml:"hmac_previous_secret_key" secret:"true" doc:"the key before: it still counts, while tokens made with it live"`
	PublicKeys    []string      `yaml:"public_keys" doc:"PEM files or texts with the public keys of RS, PS, ES and EdDSA tokens"`
	JWKSEndpoint  string        `yaml:"jwks_endpoint" doc:"URL of a JSON Web Key Set with such keys; tokens name theirs by kid"`
	JWKSInterval  time.Duration `yaml:"jwks_interval" doc:"time between two fetches of the key set, and so how long a removed key still counts; unknown kids are looked up at once"`
	Audience      string        `yaml:"audience" doc:"required aud claim; empty accepts any"`
	Issuer        string        `yaml:"issuer" doc:"required iss claim; empty accepts any"`
	Leeway        time.Duration `yaml:"leeway" doc:"how far the clock of those who make tokens may be ahead (nbf, iat)"`
	Cookie        string        `yaml:"cookie" doc:"name of a cookie that may carry the connection token, for pages of this host and listed origins; empty is none"`
	Query         string        `yaml:"query" doc:"name of a query parameter that may carry the connection token; empty is none"`
}

// SubToken is how subscription tokens are checked. Without a key of its own it is
// as Token says.
type SubToken struct {
	HMACSecretKey string   `yaml:"hmac_secret_key" secret:"true" doc:"as client.token.hmac_secret_key, for subscription tokens; with no key under subscription_token those of client.token count"`
	HMACPrevious  string   `yaml:"hmac_previous_secret_key" secret:"true" doc:"as client.token.hmac_previous_secret_key, for subscription tokens"`
	PublicKeys    []string `yaml:"public_keys" doc:"as client.token.public_keys, for subscription tokens"`
	JWKSEndpoint  string   `yaml:"jwks_endpoint" doc:"as client.token.jwks_endpoint, for subscription tokens"`
	Audience      string   `yaml:"audience" doc:"required aud claim of subscription tokens with keys of their own"`
	Issuer        string   `yaml:"issuer" doc:"required iss claim of subscription tokens with keys of their own"`
}

// HTTPAPI is who may call the server API.
type HTTPAPI struct {
	Key      string   `yaml:"key" secret:"true" doc:"key that callers send as X-API-Key; empty closes the API"`
	Keys     []string `yaml:"keys" secret:"true" doc:"further keys, so that callers can change to a new one at their own time; at least 16 bytes each"`
	External bool     `yaml:"external" doc:"serves the API on address even when there is an internal listener"`
	Insecure bool     `yaml:"insecure" doc:"calls need no key; loopback only"`
	MaxBytes int      `yaml:"max_bytes" doc:"largest request to the API"`

	MaxInflight int `yaml:"max_inflight" doc:"API calls under way on a node, of HTTP and of NATS each; more are answered with error 111"`
}

// RPC is what clients may call, and how long back ends may take.
type RPC struct {
	Allow          []string      `yaml:"allow" doc:"methods that clients with a user id may call; * stands for any run of characters"`
	AllowAnonymous []string      `yaml:"allow_for_anonymous" doc:"methods that all clients may call"`
	Timeout        time.Duration `yaml:"timeout" doc:"how long a back end may take to answer"`
	MaxInflight    int           `yaml:"max_inflight" doc:"calls of back ends under way on a node; more are answered with error 111"`
}

// Router is the timing of the cluster.
type Router struct {
	Linger            time.Duration `yaml:"linger" doc:"how long interest in a channel outlives its last subscriber"`
	SweepInterval     time.Duration `yaml:"sweep_interval" doc:"bound within which a lost last message is found"`
	HeartbeatInterval time.Duration `yaml:"heartbeat_interval" doc:"how often nodes tell of themselves; three missed and a node is gone (six, when half of the nodes fall silent at once)"`
	PublishTimeout    time.Duration `yaml:"publish_timeout" doc:"how long a publication with history waits for its acknowledgement"`

	PresenceMembers     int `yaml:"presence_members" doc:"members of a channel, at other nodes, that a node follows for joins and leaves; with more they are told at most once"`
	PresenceNodeMembers int `yaml:"presence_node_members" doc:"the same for all channels of a node together; each takes some 220 bytes, and its info"`
}

// Log is how the process logs.
type Log struct {
	Level  string `yaml:"level" doc:"debug, info, warn or error"`
	Format string `yaml:"format" doc:"text or json"`
}

// Namespace is the behaviour of the channels that share a prefix. Package router
// defines the meaning; its Namespace has the same fields.
type Namespace struct {
	Name string `yaml:"name" doc:"prefix of the channels, or default"`

	HistorySize   int           `yaml:"history_size" doc:"publications a channel keeps; 0 is no history: delivered at most once"`
	HistoryTTL    time.Duration `yaml:"history_ttl" doc:"age above which a publication is no longer served; 0 is no bound"`
	Retention     time.Duration `yaml:"retention" doc:"how long the stream keeps publications, at least history_ttl"`
	Partitions    int           `yaml:"partitions" doc:"streams the namespace is spread over"`
	MemoryStorage bool          `yaml:"memory_storage" doc:"streams in memory: faster, gone when NATS restarts"`
	Payload       string        `yaml:"payload" doc:"json; binary: any bytes, Protobuf clients only; any: any bytes, JSON clients get base64 of what is not JSON"`

	Members    string `yaml:"members" doc:"clients: subscriptions of type 2 to <name>:<channel> show who is in that channel, which needs presence and join_leave and that the client may ask for its presence; users: of type 3, an entry per user; such a namespace has no publications"`
	TagsFilter bool   `yaml:"allow_tags_filter" doc:"subscribers may say by tags which publications they want"`

	DeltaTypes []string `yaml:"allowed_delta_types" doc:"fossil: subscribers that ask for it get what changed since the last publication, instead of all of it, where that is shorter"`

	ForceRecovery    bool `yaml:"force_recovery" doc:"every subscription is recoverable"`
	ForcePositioning bool `yaml:"force_positioning" doc:"every subscription has a position"`
	CacheMode        bool `yaml:"cache_mode" doc:"recovery delivers the last publication only"`

	Presence       bool `yaml:"presence" doc:"the cluster knows who is in a channel"`
	JoinLeave      bool `yaml:"join_leave" doc:"join and leave are told to subscribers that ask"`
	ForceJoinLeave bool `yaml:"force_join_leave" doc:"join and leave are told to all subscribers"`

	AllowSubscribe          bool `yaml:"allow_subscribe" doc:"clients with a user id may subscribe"`
	AllowPublish            bool `yaml:"allow_publish" doc:"clients with a user id may publish"`
	AllowPublishSubscriber  bool `yaml:"allow_publish_for_subscriber" doc:"subscribers may publish"`
	AllowHistory            bool `yaml:"allow_history" doc:"clients with a user id may read history"`
	AllowHistorySubscriber  bool `yaml:"allow_history_for_subscriber" doc:"subscribers may read history"`
	AllowPresence           bool `yaml:"allow_presence" doc:"clients with a user id may ask who is there"`
	AllowPresenceSubscriber bool `yaml:"allow_presence_for_subscriber" doc:"subscribers may ask who is there"`
	AllowSubscribeAnonymous bool `yaml:"allow_subscribe_for_anonymous" doc:"allow_subscribe holds without a user id too"`
	AllowPublishAnonymous   bool `yaml:"allow_publish_for_anonymous" doc:"allow_publish holds without a user id too"`
	AllowHistoryAnonymous   bool `yaml:"allow_history_for_anonymous" doc:"allow_history holds without a user id too"`
	AllowPresenceAnonymous  bool `yaml:"allow_presence_for_anonymous" doc:"allow_presence holds without a user id too"`

	UserLimited  bool   `yaml:"allow_user_limited_channels" doc:"channels that end in # and user ids, dialog#42,43, are for those users alone, who need no other rule"`
	ChannelRegex string `yaml:"channel_regex" doc:"what the whole name after the namespace must match when a client uses the channel; empty is anything"`

	Map Map `yaml:"map"`
}

// defaultRetention keeps a quiet channel's head, and with it its epoch.
const defaultRetention = 7 * 24 * time.Hour

// Default returns the configuration of an empty file: no namespace, so no client
// may do anything.
func Default() Config {
	return Config{
		Address: "127.0.0.1:8000",
		Data:    "headrace-data",
		NATS:    NATS{Prefix: "hr", API: true, OpenTimeout: time.Minute},
		Client: Client{
			Token:            Token{JWKSInterval: 10 * time.Minute, Leeway: 10 * time.Second},
			PingInterval:     25 * time.Second,
			PongTimeout:      8 * time.Second,
			ConnectTimeout:   10 * time.Second,
			WriteTimeout:     10 * time.Second,
			UnreadyAfter:     20 * time.Second,
			MaxMessageBytes:  64 << 10,
			CompressionMin:   1024,
			QueueBytes:       1 << 20,
			ChannelLimit:     128,
			ChannelMaxLength: 255,
			MaxInflight:      64,
			HistoryLimit:     1000,
			ExpireGrace:      25 * time.Second,
			DrainWindow:      5 * time.Second,
			WorkerGrace:      5 * time.Second,
		},
		Internal:   Internal{PProf: true},
		Transports: defaultTransports(),
		Limits:     defaultLimits(),
		HTTPAPI:    HTTPAPI{MaxBytes: 4 << 20, MaxInflight: 512},
		RPC:        RPC{Timeout: 5 * time.Second, MaxInflight: 1024},
		Router: Router{
			Linger:            30 * time.Second,
			SweepInterval:     30 * time.Second,
			HeartbeatInterval: time.Second,
			PublishTimeout:    15 * time.Second,

			PresenceMembers: 10_000, PresenceNodeMembers: 500_000,
		},
		Inbox: defaultInbox(),
		Log:   Log{Level: "info", Format: "text"},
	}
}

// FirstRun returns the configuration of a start without a file: Default with
// what the demo needs.
func FirstRun() Config {
	c := Default()
	c.Demo = true
	c.Namespaces = []Namespace{
		withDefaults(Namespace{Name: "default", AllowSubscribe: true, AllowPublishSubscriber: true}),
		withDefaults(Namespace{
			Name: "chat", HistorySize: 100, HistoryTTL: 5 * time.Minute, ForceRecovery: true,
			Presence: true, JoinLeave: true, ForceJoinLeave: true,
			AllowSubscribe: true, AllowPublishSubscriber: true, AllowHistorySubscriber: true, AllowPresenceSubscriber: true,
		}),
	}
	jobs := newQueue("jobs")
	jobs.AllowPush, jobs.AllowWork = true, true
	c.Queues = []Queue{jobs}
	return c
}

// withDefaults fills the fields of ns that have a default.
func withDefaults(ns Namespace) Namespace {
	if ns.Payload == "" {
		ns.Payload = "json"
	}
	if ns.Partitions == 0 {
		ns.Partitions = 1
	}
	if ns.Map.Mode != "" {
		return withMapDefaults(ns)
	}
	if ns.Retention == 0 && ns.HistorySize > 0 {
		ns.Retention = max(defaultRetention, ns.HistoryTTL)
	}
	return ns
}
