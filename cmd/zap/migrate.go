package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/pod/migrate"
	"github.com/zap-migrate/zap/pod/peer"
	"github.com/zap-migrate/zap/runtime"
)

// Exit codes of `zap migrate` beside 0 and 1.
const (
	exitRejected   = 3 // the peer or the pod itself has blockers; nothing was frozen
	exitAborted    = 4 // the move failed and the pod goes on here
	exitUnresolved = 5 // the pod belongs to the peer, which does not answer yet
	exitLost       = 6 // the pod died with the peer's machine and is stopped here
)

const migrateLong = `Move a running pod to a peer: its processes with their pids, memory, open files and
established TCP connections, its own file system layer, address and MAC. Clients see a pause.

If anything goes wrong before both hosts have everything in hand, the pod simply goes on here.

Exit codes: 0 the pod runs on the peer and nothing of it is left here; 1 usage, or nothing was begun;
3 the peer or the pod has blockers, all of them are printed, nothing was frozen; 4 the move failed and the
pod goes on here; 5 the pod belongs to the peer, which does not answer: it runs there as soon as it does;
6 the pod was the peer's and died with its machine: it is stopped here, with its files.`

type migrateFlags struct {
	tls, bandwidth, format, resolve string
	mode                            string
	check, keepLog                  bool
	timeout, idle, maxDowntime      time.Duration
	maxRounds                       int
}

func newMigrateCommand(g *globals) *cobra.Command {
	var f migrateFlags
	cmd := &cobra.Command{
		Use:   "migrate [flags] POD ADDR:PORT",
		Short: "Move a running pod to another host",
		Long:  migrateLong,
		Example: "  zap migrate --tls /etc/zap/keys/a db 192.0.2.2:7800\n" +
			"  zap migrate --tls /etc/zap/keys/a --check db 192.0.2.2:7800\n" +
			"  zap migrate --resolve commit db",
		Args: func(_ *cobra.Command, args []string) error {
			want := 2
			if f.resolve != "" {
				want = 1
			}
			if len(args) != want {
				return errors.New("usage: zap migrate [flags] POD ADDR:PORT, or zap migrate --resolve commit|abort POD")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.resolve != "" {
				return resolveMove(cmd.Context(), g, &f, args[0])
			}
			return migratePod(cmd.Context(), g, &f, args[0], args[1])
		},
	}
	flags := cmd.Flags()
	f.register(flags)
	flags.StringVar(&f.resolve, "resolve", "", "decide a move that lost its other side: commit or abort")
	return cmd
}

// register defines the flags that say how a pod is moved.
func (f *migrateFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.tls, "tls", "", "directory with this host's keys")
	flags.BoolVar(&f.check, "check", false, "only find out whether the pod could move, and why not")
	flags.BoolVar(&f.keepLog, "keep-source-log", false, "leave a copy of the pod's log on this host")
	flags.StringVar(&f.bandwidth, "bandwidth", "", "send at most this many bytes a second, as in 50m")
	flags.StringVar(&f.mode, "mode", string(migrate.ModeAuto), "when memory goes over: pre (most of it while the pod runs), stop, or auto")
	flags.IntVar(&f.maxRounds, "max-rounds", migrate.DefaultMaxRounds, "of memory while the pod runs, before it is frozen anyway")
	flags.DurationVar(&f.maxDowntime, "max-downtime", 0, "do not freeze a pod whose pause would be longer, as estimated after the rounds")
	flags.DurationVar(&f.timeout, "timeout", 0, "call the move off when it is not committed after this time")
	flags.DurationVar(&f.idle, "idle", defaultIdle, "how long the peer may be silent before it counts as lost")
	flags.StringVar(&f.format, "format", "text", "text, or json: one event a line and a final result")
}

// options reads the flags for a move to the peer at address.
func (f *migrateFlags) options(g *globals, address string) (migrate.Options, *peer.Client, error) {
	var o migrate.Options
	if err := textOrJSON(f.format); err != nil {
		return o, nil, err
	}
	if err := checkIdle(f.idle); err != nil {
		return o, nil, err
	}
	if f.tls == "" {
		return o, nil, errors.New("flag --tls: name the directory with this host's keys (`zap keys init` makes it)")
	}
	var bandwidth int64
	if f.bandwidth != "" {
		n, err := pod.ParseSize(f.bandwidth)
		if err != nil {
			return o, nil, fmt.Errorf("flag --bandwidth: %w", err)
		}
		bandwidth = n
	}
	mode, err := migrate.ParseMode(f.mode)
	if err != nil {
		return o, nil, fmt.Errorf("flag --mode: %w", err)
	}
	if f.maxRounds < 1 || f.maxDowntime < 0 {
		return o, nil, errors.New("flags --max-rounds and --max-downtime: give at least one round, and no negative time")
	}
	tlsDir, err := filepath.Abs(f.tls)
	if err != nil {
		return o, nil, err
	}
	client, err := peer.NewClient(address, tlsDir)
	if err != nil {
		return o, nil, err
	}
	return migrate.Options{
		Peer: address, TLSDir: tlsDir, KeepLog: f.keepLog, Bandwidth: bandwidth, Idle: f.idle, CacheDir: criuCache(g.root),
		Mode: mode, MaxRounds: f.maxRounds, MaxDowntime: f.maxDowntime,
	}, client, nil
}

// migratePod moves a pod, or with --check asks whether it could be moved.
func migratePod(ctx context.Context, g *globals, f *migrateFlags, name, address string) error {
	debug.SetGCPercent(coordinatorGC)
	unhurry := pod.Hurry()
	defer unhurry()
	options, client, err := f.options(g, address)
	if err != nil {
		return err
	}
	return f.move(ctx, g, newProgress(f.format, os.Stdout, os.Stderr), options, client, name, unhurry)
}

// move moves one pod, or with --check asks whether it could be moved, and shows how it went. The move ends the hurry that the caller began.
func (f *migrateFlags) move(ctx context.Context, g *globals, show *progress, options migrate.Options, client *peer.Client, name string, unhurry func()) error {
	rt := runtime.New(g.root, g.log)
	if err := endEarlier(ctx, g, rt, name); err != nil {
		return show.finished(name, options.Peer, nil, err)
	}
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("not done after --timeout %v", f.timeout))
		defer cancel()
	}
	if f.check {
		p, err := pod.Load(rt, name)
		if err != nil {
			return err
		}
		source := &migrate.Source{Runtime: rt, Pod: p, Dialer: client, Log: g.log, Events: show.event, Options: options}
		return show.checked(name, options.Peer, source.Check(ctx))
	}
	result, err := moveWithPatience(ctx, name, options, func(o migrate.Options) *migrate.Source {
		return &migrate.Source{Runtime: rt, Dialer: client, Log: g.log, Events: show.event, Options: o, Unhurry: unhurry}
	})
	return show.finished(name, options.Peer, result, err)
}

// coordinatorGC is the collector's target in percent (runtime/debug.SetGCPercent): a coordinator holds a few megabytes, lives for one move, and
// should not look through them while a pod stands still.
const coordinatorGC = 400

// moveTries is how often a pod is tried to be moved that was in a passing state
// just then in which CRIU can't dump it.
const moveTries = 5

// moveWithPatience moves a pod, and tries again when only a passing state of it stood against that, or when the mode that zap chose did.
func moveWithPatience(ctx context.Context, name string, o migrate.Options, newSource func(migrate.Options) *migrate.Source) (*migrate.Result, error) {
	for try := 1; ; try++ {
		source := newSource(o)
		p, err := pod.Load(source.Runtime, name)
		if err != nil {
			return nil, err
		}
		source.Pod = p
		result, err := source.Run(ctx)
		ahead := o.Mode == migrate.ModeAuto && source.Ahead(err)
		if try == moveTries || !ahead && !migrate.Passing(err) || ctx.Err() != nil {
			return result, err
		}
		if ahead {
			o.Mode = migrate.ModeStop
		}
		source.Events(migrate.Event{Event: "again", Time: time.Now().UTC(), Detail: err.Error()})
	}
}

// earlierWithin is how long an earlier move of a pod, which lost its
// coordinator, may take to be brought to its end before another begins.
const earlierWithin = 15 * time.Second

func endEarlier(ctx context.Context, g *globals, rt *runtime.Runtime, name string) error {
	ctx, cancel := context.WithTimeout(ctx, earlierWithin)
	defer cancel()
	if err := migrate.Recover(ctx, rt, name, dialJournal, g.log); err != nil {
		return fmt.Errorf("an earlier move of the pod: %w", err)
	}
	return nil
}

// resolveMove decides, by a person's word, a move whose other side is lost.
func resolveMove(ctx context.Context, g *globals, f *migrateFlags, name string) error {
	if f.resolve != "commit" && f.resolve != "abort" {
		return fmt.Errorf("flag --resolve: %q is neither commit nor abort", f.resolve)
	}
	if err := textOrJSON(f.format); err != nil {
		return err
	}
	rt := runtime.New(g.root, g.log)
	state, err := migrate.Resolve(ctx, rt, name, f.resolve, g.log)
	if err != nil {
		return err
	}
	if f.format == "json" {
		return json.NewEncoder(os.Stdout).Encode(map[string]string{"result": "resolved", "pod": name, "state": state})
	}
	fmt.Printf("%s: %s\n", name, state)
	return nil
}

// checked prints the answer to --check.
func (s *progress) checked(name, address string, err error) error {
	var rejected *migrate.RejectedError
	switch {
	case errors.As(err, &rejected):
		if s.json {
			_ = s.encode(map[string]any{"result": "rejected", "pod": name, "peer": address, "blockers": rejected.Blockers})
		}
		return &exitError{code: exitRejected, err: err}
	case err != nil:
		return err
	case s.json:
		return s.encode(map[string]any{"result": "possible", "pod": name, "peer": address, "blockers": []string{}})
	}
	fmt.Fprintf(s.out, "%s can move to %s\n", name, address)
	return nil
}

// finished prints how a move ended and turns errors into exit codes.
func (s *progress) finished(name, address string, r *migrate.Result, err error) error {
	s.end()
	if err == nil {
		if s.json {
			return s.encode(struct {
				Pod string `json:"pod"`
				*migrate.Result
			}{name, r})
		}
		return s.summary(name, address, r)
	}
	var rejected *migrate.RejectedError
	var unresolved *migrate.UnresolvedError
	var aborted *migrate.AbortedError
	var lost *migrate.LostError
	code, word := 1, "failed"
	switch {
	case errors.As(err, &rejected):
		code, word = exitRejected, "rejected"
	case errors.As(err, &unresolved):
		code, word = exitUnresolved, "unresolved"
	case errors.As(err, &aborted):
		code, word = exitAborted, "aborted"
	case errors.As(err, &lost):
		code, word = exitLost, "lost"
	}
	if s.json {
		line := map[string]any{"result": word, "pod": name, "peer": address, "error": err.Error()}
		if rejected != nil {
			line["blockers"] = rejected.Blockers
		}
		_ = s.encode(line)
	}
	return &exitError{code: code, err: err}
}

func (s *progress) encode(v any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return json.NewEncoder(s.out).Encode(v)
}

func (s *progress) summary(name, address string, r *migrate.Result) error {
	_, err := fmt.Fprintf(s.out, "%s runs on %s: paused %.1f ms, %.2f s in all, %s of memory, %s of files, %d frames held\n",
		name, address, r.PauseMS, r.TotalMS/1000, size(r.MemoryBytes), size(r.FileBytes), r.HeldFrames)
	if err == nil && r.Why != "" {
		_, err = fmt.Fprintf(s.out, "memory went over in mode %s: %s\n", r.Mode, r.Why)
	}
	if err == nil && r.Log != "" {
		_, err = fmt.Fprintf(s.out, "log kept in %s\n", r.Log)
	}
	return err
}

// size prints a number of bytes for people.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, i := float64(n), 0
	for value >= 1024 && i < len(units)-1 {
		value, i = value/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, units[i])
}
