package test

// inboxSteps use the methods of inboxes, before the user's sessions are subscribed
// to the inbox and after; see apiSteps.
var inboxSteps = []apiStep{
	{"inbox_send", `{"user":"%[1]s","data":{"n":1},"type":"note","idempotency_key":"k1"}`, `{"result":{"status":"stored","number":1,"epoch":"E","devices":0}}`, nil},
	{"inbox_send", `{"user":"%[1]s","data":{"n":1},"type":"note","idempotency_key":"k1"}`, `{"result":{"status":"duplicate","number":1,"epoch":"E","devices":0}}`, nil},
	{"inbox_unread", `{"user":"%[1]s","device":"phone"}`, `{"result":{"channel":"inbox:#%[1]s","cursor":0,"head":1,"epoch":"E","unread":1,"new":true}}`, nil},
	{"subscribe", `{"user":"%[1]s","channel":"inbox:#%[1]s"}`, `{"result":{"sessions":2}}`, []string{"subscribe inbox:#%[1]s offset 1 recoverable true"}},
	{"inbox_send", `{"user":"%[1]s","data":2,"from":"bob"}`, `{"result":{"status":"delivered","number":2,"epoch":"E","devices":2}}`, []string{`pub inbox:#%[1]s 2 2`}},
	{"inbox_list", `{"user":"%[1]s"}`, `{"result":{"messages":[{"number":1,"time":0,"type":"note","data":{"n":1}},{"number":2,"time":0,"from":{"user":"bob","client":""},"data":2}],"after":0,"head":2,"epoch":"E"}}`, nil},
	{"inbox_list", `{"user":"%[1]s","limit":1}`, `{"result":{"messages":[{"number":1,"time":0,"type":"note","data":{"n":1}}],"after":0,"head":2,"epoch":"E","more":true}}`, nil},
	{"inbox_ack", `{"user":"%[1]s","device":"phone","number":1}`, `{"result":{"cursor":1,"head":2,"epoch":"E","moved":true}}`, nil},
	{"inbox_ack", `{"user":"%[1]s","device":"phone","number":0}`, `{"result":{"cursor":1,"head":2,"epoch":"E","moved":false}}`, nil},
	{"inbox_ack", `{"user":"%[1]s","device":"phone","number":3}`, `{"error":{"code":107,"message":"number 3 is beyond the newest, 2"}}`, nil},
	{"inbox_ack", `{"user":"%[1]s","device":"phone","number":2,"epoch":"another"}`, `{"error":{"code":112,"message":"the position's epoch is not the channel's current one"}}`, nil},
	{"inbox_ack", `{"user":"%[1]s","device":"","number":2}`, `{"error":{"code":107,"message":"device must be UTF-8 of 1 to 64 bytes"}}`, nil},
	{"inbox_list", `{"user":"%[1]s","device":"phone"}`, `{"result":{"messages":[{"number":2,"time":0,"from":{"user":"bob","client":""},"data":2}],"after":1,"head":2,"epoch":"E"}}`, nil},
	{"inbox_clear", `{"user":"%[1]s"}`, `{"result":{}}`, nil},
	{"inbox_unread", `{"user":"%[1]s","device":"phone"}`, `{"result":{"channel":"inbox:#%[1]s","cursor":1,"head":3,"epoch":"E","unread":0,"gone":true}}`, nil},
	{"inbox_ack", `{"user":"%[1]s","device":"phone","number":3}`, `{"result":{"cursor":3,"head":3,"epoch":"E","moved":true}}`, nil},
	{"inbox_unread", `{"user":"%[1]s","device":"phone"}`, `{"result":{"channel":"inbox:#%[1]s","cursor":3,"head":3,"epoch":"E","unread":0}}`, nil},
	{"inbox_send", `{"user":"%[1]s","data":{"hi":1},"type":"wave","store":false}`, `{"result":{"status":"delivered","devices":2}}`, []string{`message {"direct":{"type":"wave","data":{"hi":1}}}`}},
	{"inbox_send", `{"user":"nobody","data":1,"store":false}`, `{"error":{"code":108,"message":"target is not online"}}`, nil},
	{"inbox_send", `{"user":"a,b","data":1}`, `{"error":{"code":107,"message":"a user id with # or , has no inbox"}}`, nil},
	{"inbox_send", `{"user":"","data":1}`, `{"error":{"code":107,"message":"user is empty"}}`, nil},
	{"inbox_send", `{"user":"%[1]s"}`, `{"error":{"code":107,"message":"data is missing"}}`, nil},
	{"unsubscribe", `{"user":"%[1]s","channel":"inbox:#%[1]s"}`, `{"result":{"sessions":2}}`, []string{"unsubscribe inbox:#%[1]s 2000 server unsubscribe"}},
}
