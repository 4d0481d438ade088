package config

import (
	"reflect"
	"strings"
)

// Key is one setting, for documentation and flags.
type Key struct {
	Path    string // as in a file: nats.url
	Env     string // HEADRACE_NATS_URL
	Doc     string
	Default string
	Secret  bool
}

// Keys returns every setting, in the order of the file. Namespaces and queues are
// one setting each; NamespaceKeys and QueueKeys tell what is in an entry.
func Keys() []Key { return keysOf(reflect.ValueOf(Default()), "") }

// NamespaceKeys returns the settings of one entry of namespaces.
func NamespaceKeys() []Key {
	return keysOf(reflect.ValueOf(withDefaults(Namespace{HistorySize: 0})), "")
}

// QueueKeys returns the settings of one entry of queues.
func QueueKeys() []Key { return keysOf(reflect.ValueOf(newQueue("")), "") }

func keysOf(v reflect.Value, path string) []Key {
	var keys []Key
	for i := range v.NumField() {
		f := v.Type().Field(i)
		name := join(path, f.Tag.Get("yaml"))
		if f.Type.Kind() == reflect.Struct {
			keys = append(keys, keysOf(v.Field(i), name)...)
			continue
		}
		keys = append(keys, Key{
			Path: name, Env: envName(name), Doc: f.Tag.Get("doc"),
			Default: strings.TrimSpace(scalarText(v.Field(i))), Secret: f.Tag.Get("secret") != "",
		})
	}
	return keys
}

// fieldsOf returns the keys of a struct type in order and each one's field.
func fieldsOf(t reflect.Type) (keys []string, index map[string]int) {
	index = make(map[string]int, t.NumField())
	for i := range t.NumField() {
		key := t.Field(i).Tag.Get("yaml")
		keys = append(keys, key)
		index[key] = i
	}
	return keys, index
}

// lookup returns the field of cfg at path, which must be one of Keys.
func lookup(cfg *Config, path string) (reflect.Value, bool) {
	v := reflect.ValueOf(cfg).Elem()
	for name := range strings.SplitSeq(path, ".") {
		if v.Kind() != reflect.Struct {
			return reflect.Value{}, false
		}
		_, index := fieldsOf(v.Type())
		i, ok := index[name]
		if !ok {
			return reflect.Value{}, false
		}
		v = v.Field(i)
	}
	return v, v.Kind() != reflect.Struct
}

const envPrefix = "HEADRACE_"

func envName(path string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
