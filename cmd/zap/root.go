package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime/boot"
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
	{"checkpoint", newCheckpointCommand},
	{"restore", newRestoreCommand},
	{"list", newListCommand},
	{"features", newFeaturesCommand},
	{"ps", newPsCommand},
	{"pause", newPauseCommand},
	{"resume", newResumeCommand},
	{"update", newUpdateCommand},
	{"events", newEventsCommand},
	{"spec", newSpecCommand},
	{"explain", newExplainCommand},
	{"check", newCheckCommand},
	{"install-config", newInstallConfigCommand},
	{"keys", newKeysCommand},
	{"pod", newPodCommand},
	{"serve", newServeCommand},
	{"migrate", newMigrateCommand},
	{"drain", newDrainCommand},
	{"prune", newPruneCommand},
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
		Use:           programName(),
		Short:         "Open Container Initiative runtime whose containers can move to another machine while they run",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Example:       "zap run --bundle /var/lib/bundles/web web1\nzap list\nzap pod run --name db --rootfs /srv/redis redis-server",
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return g.prepare()
		},
	}
	root.Flags().SetInterspersed(false)
	f := root.PersistentFlags()
	f.StringVar(&g.root, "root", standardRoot(), "directory that holds the state of all pods and containers")
	f.StringVar(&g.logPath, "log", "", "file to log to (default: standard error)")
	f.StringVar(&g.logFormat, "log-format", "text", "format of the log: text or json")
	f.BoolVar(&g.debug, "debug", false, "log more")
	f.BoolVar(&g.systemdCgroup, "systemd-cgroup", false, "have systemd make cgroups: linux.cgroupsPath is SLICE:PREFIX:NAME")
	f.StringVar(&g.rootless, "rootless", "auto", "go on without a cgroup where none may be made: true, false or auto (for users without privileges)")
	f.String("criu", "", "accepted: zap finds CRIU by itself, see zap check")
	_ = f.MarkHidden("criu") // of a flag that is there
	some := named(args)
	for _, v := range some {
		root.AddCommand(v.build(g))
	}
	root.CompletionOptions.DisableDefaultCmd = len(some) < len(verbs)
	setHelp(root)
	root.SetArgs(normalize(root, args))
	return root
}

// standardRoot is the value of --root when it is not given. A user without privileges has a directory of its own.
func standardRoot() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && os.Geteuid() != 0 {
		return filepath.Join(dir, "zap")
	}
	return defaultRoot
}

// prepare checks the global flags and opens the log.
func (g *globals) prepare() error {
	if err := g.openLog(); err != nil {
		return err
	}
	if abs, err := filepath.Abs(g.root); err != nil || abs == "/" {
		return fmt.Errorf("flag --root: %q is no directory for containers", g.root)
	}
	switch strings.ToLower(g.rootless) {
	case "", "auto":
		return nil
	}
	if _, err := strconv.ParseBool(g.rootless); err != nil {
		return fmt.Errorf("flag --rootless: %q is neither true, false nor auto", g.rootless)
	}
	return nil
}

// isRootless says whether a container may do without a cgroup when this process is not allowed to make one.
func (g *globals) isRootless() bool {
	if yes, err := strconv.ParseBool(g.rootless); err == nil {
		return yes
	}
	return os.Geteuid() != 0
}

// openLog makes the logger: levels are lower case in JSON, because containerd
// looks for the last line whose level is "error".
func (g *globals) openLog() error {
	var out io.Writer = os.Stderr
	if g.logPath != "" {
		file, err := os.OpenFile(g.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return fmt.Errorf("open log: %w", err)
		}
		out = file
	}
	options := &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: lowerLevel}
	if g.debug {
		options.Level = slog.LevelDebug
	}
	switch g.logFormat {
	case "text", "":
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

// report tells the user of a command's error: always on standard error, and in the log file if there is one, as runc's callers expect.
// Without a file a log in JSON goes to standard error, and the error is a line of it; under the name runc it is a line of a log anyway.
func (g *globals) report(command string, err error) {
	if g.log == nil { // a command line that was not understood ends before the log is opened, and callers look for the reason there
		_ = g.openLog()
	}
	text, line, lineOfLog := err.Error(), fmt.Sprintf("zap: %v", err), g.logFormat == "json"
	if programName() == "runc" {
		text = inRuncWords(command, err)
		line, lineOfLog = text, true
	}
	if refused := refusedProgram(err); refused != "" {
		line, lineOfLog = refused, lineOfLog && g.logFormat == "json"
	}
	if g.log != nil && (g.logPath != "" || lineOfLog) {
		g.log.Error(text)
	}
	if g.log == nil || g.logPath != "" || !lineOfLog {
		fmt.Fprintln(os.Stderr, line)
	}
}

// refusedProgram is what to say on standard error about a program that can't be executed, and nothing for any other error. These are the
// words, and only those, that runc's first process of the container says there: callers compare the whole output.
func refusedProgram(err error) string {
	var failure *boot.Failure
	if errors.As(err, &failure) && failure.Path != "" {
		return fmt.Sprintf("exec %s: %v", failure.Path, failure.Err)
	}
	return ""
}

// textOrJSON checks the flag --format of verbs whose text is no table.
func textOrJSON(format string) error {
	if format != "text" && format != "json" {
		return fmt.Errorf("flag --format: %q is neither text nor json", format)
	}
	return nil
}
