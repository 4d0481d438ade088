package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/headrace/headrace/internal/config"
)

// settingFlags are the settings with a flag of their own; --set reaches the rest.
var settingFlags = []struct{ name, path, usage string }{
	{"addr", "address", "`host:port` to serve clients on (default 127.0.0.1:8000)"},
	{"data", "data", "data `directory` of the embedded NATS server (default headrace-data)"},
	{"nats", "nats.url", "NATS server `urls`, comma separated, instead of the embedded server"},
	{"nats-listen", "nats.listen", "`host:port` on which the embedded server takes NATS clients"},
	{"node-name", "node_name", "`name` of this node shown to people"},
	{"log-level", "log.level", "debug, info, warn or error (default info)"},
	{"log-format", "log.format", "text or json (default text)"},
}

var switchFlags = []struct{ name, path, usage string }{
	{"insecure", "insecure", "everyone may do everything; for development, loopback only"},
	{"demo", "demo", "serve the demo chat (on without a configuration file)"},
}

// configFlags adds the flags that make a configuration and returns a function
// that loads it.
func (a *app) configFlags(cmd *cobra.Command) func() (config.Config, error) {
	flags := cmd.Flags()
	for _, f := range settingFlags {
		flags.String(f.name, "", f.usage)
	}
	for _, f := range switchFlags {
		flags.Bool(f.name, false, f.usage)
	}
	return a.fileFlags(cmd, func() []config.Flag { return changedFlags(flags) })
}

// fileFlags adds the flags that name a configuration, without those for single
// settings; more, unless nil, returns settings to apply last.
func (a *app) fileFlags(cmd *cobra.Command, more func() []config.Flag) func() (config.Config, error) {
	flags := cmd.Flags()
	file := flags.StringP("config", "c", "", "configuration `file`, YAML (variable "+config.EnvFile+")")
	set := flags.StringArray("set", nil, "any other setting as `key=value`, such as client.ping_interval=10s; repeatable")
	return func() (config.Config, error) {
		src := config.Source{File: *file, Environ: a.environ}
		if src.File == "" {
			src.File = lookupEnv(a.environ, config.EnvFile)
		}
		for _, pair := range *set {
			path, value, ok := strings.Cut(pair, "=")
			if !ok {
				return config.Config{}, &usageError{err: fmt.Errorf("--set %q has no value", pair), hint: "write --set key=value"}
			}
			src.Flags = append(src.Flags, config.Flag{Name: "--set", Path: path, Value: value})
		}
		if more != nil {
			src.Flags = append(src.Flags, more()...)
		}
		return loadConfig(src)
	}
}

func changedFlags(flags *pflag.FlagSet) []config.Flag {
	var changed []config.Flag
	for _, f := range append(settingFlags, switchFlags...) {
		if flag := flags.Lookup(f.name); flag.Changed {
			changed = append(changed, config.Flag{Name: "--" + f.name, Path: f.path, Value: flag.Value.String()})
		}
	}
	return changed
}

// loadConfig loads src and checks it with the rules of the packages it is for.
func loadConfig(src config.Source) (config.Config, error) {
	src.Origins = make(map[string]string)
	cfg, err := config.Load(src)
	var problems *config.Error
	if err != nil && !errors.As(err, &problems) {
		return cfg, &usageError{err: err, hint: "name the file with --config"}
	}
	if problems == nil {
		problems = new(config.Error)
	}
	for i, ns := range namespaces(cfg) {
		if ns.Name == "" {
			continue // told already
		}
		where := src.Origins[fmt.Sprintf("namespaces[%d].name", i)]
		for _, line := range splitJoined(ns.Validate()) {
			problems.Problems = append(problems.Problems, config.Problem{Where: where, What: line})
		}
	}
	for i, q := range queues(cfg) {
		if q.Name == "" {
			continue // told already
		}
		q = q.WithDefaults()
		for _, line := range splitJoined(q.Validate()) {
			problems.Problems = append(problems.Problems, config.Problem{Where: src.Origins[fmt.Sprintf("queues[%d].name", i)], What: line})
		}
	}
	problems.Problems = append(problems.Problems, tokenProblems(cfg, src.Origins)...)
	problems.Problems = append(problems.Problems, webhookProblems(cfg, src.Origins)...)
	if len(problems.Problems) > 0 {
		return cfg, &usageError{err: problems, hint: "`headrace config print` shows what is in effect; docs/operations.md lists every key"}
	}
	return cfg, nil
}

// splitJoined returns the messages of errors joined by errors.Join.
func splitJoined(err error) []string {
	if err == nil {
		return nil
	}
	return strings.Split(err.Error(), "\n")
}

func lookupEnv(environ []string, name string) string {
	for _, kv := range environ {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value
		}
	}
	return ""
}

// countStreams returns the streams with history, and all streams and consumers: those
// that are replicated are the HA assets of a NATS cluster, and about 2,000 are what one
// carries.
func countStreams(cfg config.Config) (logs, all int) {
	for _, ns := range namespaces(cfg) {
		if ns.HistorySize == 0 {
			continue
		}
		logs += ns.Partitions
		if all += ns.Partitions; ns.Map != nil {
			all += ns.Partitions // what the keys are
		}
	}
	if logs > 0 {
		all += 3 // what plain NATS clients publish, who reads that, and what was refused
	}
	if cfg.Inbox.Enabled {
		all++ // the cursors
	}
	if cfg.Limits.UserMessages.Enabled {
		all++
	}
	return logs, all + 9*len(cfg.Queues) // three streams and six consumers each
}

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check and print the configuration", Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	check := &cobra.Command{Use: "check", Short: "Check file, environment and flags; exit with 2 when something is wrong", Args: exactArgs(0)}
	loadForCheck := a.configFlags(check)
	check.RunE = func(*cobra.Command, []string) error {
		cfg, err := loadForCheck()
		if err != nil {
			return err
		}
		logs, all := countStreams(cfg)
		_, err = fmt.Fprintf(a.stdout, "ok: %d namespaces with %d history streams, %d queues; %d streams and consumers with %d replicas\n",
			len(namespaces(cfg)), logs, len(cfg.Queues), all, replicas(cfg, cfg.NATS.URL != ""))
		return err
	}
	show := &cobra.Command{Use: "print", Short: "Print the configuration in effect, secrets hidden", Args: exactArgs(0)}
	loadForPrint := a.configFlags(show)
	show.RunE = func(*cobra.Command, []string) error {
		cfg, err := loadForPrint()
		if err != nil {
			return err
		}
		return config.Print(a.stdout, cfg)
	}
	cmd.AddCommand(check, show)
	return cmd
}
