package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
)

// defaultRoot holds one directory per pod. It is on disk, because a journal
// has to survive a crash of the host.
const defaultRoot = "/var/lib/zap"

// globals are the flags before the verb, as go-runc, conmon and CRI-O send them.
type globals struct {
	root, logPath, logFormat string
	debug, systemdCgroup     bool
	rootless                 string

	log *slog.Logger
}

// verb is a command of the program.
type verb struct {
	name  string
	build func(*globals) *cobra.Command
}

// verbs lists all commands; a new one is one file and one line here.
var verbs = []verb{
	{"create", newCreateCommand},
	{"start", newStartCommand},
	{"run", newRunCommand},
	{"exec", newExecCommand},
	{"state", newStateCommand},
	{"kill", newKillCommand},
	{"delete", newDeleteCommand},
	{"list", newListCommand},
	{"ps", newPsCommand},
	{"pause", newPauseCommand},
	{"resume", newResumeCommand},
	{"update", newUpdateCommand},
	{"spec", newSpecCommand},
	{"explain", newExplainCommand},
	{"check", newCheckCommand},
	{"install-config", newInstallConfigCommand},
	{"keys", newKeysCommand},
	{"pod", newPodCommand},
	{"serve", newServeCommand},
	{"migrate", newMigrateCommand},
	{"supervise", newSuperviseCommand},
	{"guard", newGuardCommand},
}

// named returns the verbs whose names are among the arguments: to build all of them takes a tenth of the time of a short command. When
// there is none, or when help is asked for, it returns all.
func named(args []string) []verb {
	var out []verb
	for _, v := range verbs {
		if slices.Contains(args, v.name) {
			out = append(out, v)
		}
	}
	about := func(arg string) bool {
		return arg == "-h" || arg == "--help" || arg == "help" || arg == "completion" || strings.HasPrefix(arg, "__complete")
	}
	if len(out) == 0 || slices.ContainsFunc(args, about) {
		return verbs
	}
	return out
}

// newRootCommand makes the command that carries out args, with the verbs that this may need.
func newRootCommand(g *globals, args []string) *cobra.Command {
	root := &cobra.Command{
		Use:           "zap",
		Short:         "Run containers that can move to another machine while they run",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return g.openLog()
		},
	}
	root.SetVersionTemplate(fmt.Sprintf("zap version %s\nspec: %s\n", version, specs.Version))
	root.Flags().SetInterspersed(false)
	f := root.PersistentFlags()
	f.StringVar(&g.root, "root", defaultRoot, "directory that holds the state of all pods and containers")
	f.StringVar(&g.logPath, "log", "", "file to log to (default: standard error)")
	f.StringVar(&g.logFormat, "log-format", "text", "format of the log: text or json")
	f.BoolVar(&g.debug, "debug", false, "log more")
	f.BoolVar(&g.systemdCgroup, "systemd-cgroup", false, "ask systemd for cgroups (accepted; cgroupfs is used)")
	f.StringVar(&g.rootless, "rootless", "auto", "ignore cgroup permission errors: true, false or auto (accepted)")
	some := named(args)
	for _, v := range some {
		root.AddCommand(v.build(g))
	}
	root.CompletionOptions.DisableDefaultCmd = len(some) < len(verbs)
	root.SetArgs(args)
	return root
}

// openLog makes the logger: levels are lower case in JSON, because containerd
// looks for the last line whose level is "error".
func (g *globals) openLog() error {
	var out io.Writer = os.Stderr
	if g.logPath != "" {
		file, err := os.OpenFile(g.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		out = file
	}
	options := &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: lowerLevel}
	if g.debug {
		options.Level = slog.LevelDebug
	}
	switch g.logFormat {
	case "text":
		g.log = slog.New(slog.NewTextHandler(out, options))
	case "json":
		g.log = slog.New(slog.NewJSONHandler(out, options))
	default:
		return fmt.Errorf("flag --log-format: %q is neither text nor json", g.logFormat)
	}
	return nil
}

func lowerLevel(_ []string, a slog.Attr) slog.Attr {
	if level, ok := a.Value.Any().(slog.Level); ok && a.Key == slog.LevelKey {
		a.Value = slog.StringValue(strings.ToLower(level.String()))
	}
	return a
}

// report tells the user of err: always on standard error, and in the log file
// if there is one, as runc's callers expect.
func (g *globals) report(err error) {
	fmt.Fprintf(os.Stderr, "zap: %v\n", err)
	if g.log != nil && g.logPath != "" {
		g.log.Error(err.Error())
	}
}

// normalize turns the one-dash long flags that go-runc sends (-no-subreaper)
// into the two-dash ones that pflag reads, up to the first "--".
func normalize(args []string) []string {
	out := make([]string, 0, len(args))
	for i, arg := range args {
		if arg == "--" {
			return append(out, args[i:]...)
		}
		if arg == "-no-subreaper" || arg == "-no-pivot" || arg == "-no-new-keyring" {
			arg = "-" + arg
		}
		out = append(out, arg)
	}
	return out
}
