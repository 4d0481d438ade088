package config

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

// Source is where a configuration comes from.
type Source struct {
	// File is the path of a YAML file; "" is none, which starts from FirstRun.
	File string
	// Environ is the environment as os.Environ returns it.
	Environ []string
	// Flags are "path=value" settings, later ones winning.
	Flags []Flag
	// Origins, unless nil, is filled with where each key was set, for problems that
	// other packages find.
	Origins map[string]string
}

// Flag is a setting from the command line.
type Flag struct {
	Name  string // as the user wrote it, for messages: --addr
	Path  string // key
	Value string
}

// EnvFile names the configuration file when no flag does. It is no key.
const EnvFile = envPrefix + "CONFIG"

// Load reads, merges and validates. A *Error tells all that is wrong; the Config
// is what could be read.
func Load(src Source) (Config, error) {
	cfg := FirstRun()
	d := &decoder{file: src.File, origin: make(map[string]string)}
	if src.File != "" {
		cfg = Default()
		data, err := os.ReadFile(src.File)
		if err != nil {
			return cfg, fmt.Errorf("read configuration: %w", err)
		}
		d.decodeFile(data, &cfg)
	}
	d.environ(src.Environ, &cfg)
	for _, f := range src.Flags {
		d.set(&cfg, f.Name, f.Path, f.Value)
	}
	for i := range cfg.Namespaces {
		cfg.Namespaces[i] = withDefaults(cfg.Namespaces[i])
	}
	d.validate(&cfg)
	if src.Origins != nil {
		maps.Copy(src.Origins, d.origin)
	}
	if len(d.problems) > 0 {
		return cfg, &Error{Problems: d.problems}
	}
	return cfg, nil
}

// serviceLink matches the variables that Kubernetes sets for a Service whose
// name begins with "headrace"; they are not ours.
var serviceLink = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?)$`)

// environ applies the variables that begin with HEADRACE_.
func (d *decoder) environ(environ []string, cfg *Config) {
	paths := make(map[string]string)
	var names []string
	for _, k := range Keys() {
		paths[k.Env] = k.Path
		names = append(names, k.Env)
	}
	sorted := slices.Clone(environ)
	slices.Sort(sorted) // so that messages have one order
	for _, kv := range sorted {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || name == EnvFile {
			continue
		}
		path, known := paths[name]
		switch {
		case known:
			d.set(cfg, name, path, value)
		case !serviceLink.MatchString(name):
			d.problems = append(d.problems, Problem{Where: name, What: "unknown variable" + suggest(name, names)})
		}
	}
}

// set gives the key at path a value from a variable or flag named name. Lists of
// texts are comma separated, namespaces and queues are YAML or JSON lists.
func (d *decoder) set(cfg *Config, name, path, value string) {
	v, ok := lookup(cfg, path)
	if !ok {
		var all []string
		for _, k := range Keys() {
			all = append(all, k.Path)
		}
		d.problems = append(d.problems, Problem{Where: name, What: fmt.Sprintf("unknown key %q%s", path, suggest(path, all))})
		return
	}
	d.origin[path] = name
	switch v.Interface().(type) {
	case []string:
		var list []string
		for item := range strings.SplitSeq(value, ",") {
			if item = strings.TrimSpace(item); item != "" {
				list = append(list, item)
			}
		}
		v.Set(reflect.ValueOf(list))
	case []Namespace, []Queue:
		inner := &decoder{file: name, origin: d.origin}
		var holder Config
		delete(d.origin, path)
		inner.decodeFile([]byte(path+":\n  "+strings.ReplaceAll(value, "\n", "\n  ")), &holder)
		d.problems = append(d.problems, inner.problems...)
		list, _ := lookup(&holder, path)
		v.Set(list)
	default:
		if err := setScalar(v, value); err != nil {
			d.problems = append(d.problems, Problem{Where: name, Key: path, What: err.Error()})
		}
	}
}
