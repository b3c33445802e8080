package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/network"
	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
)

type podRunFlags struct {
	options         pod.Options
	network, memory string
	volumes         []string
	detach, stdin   bool
}

func newPodRunCommand(g *globals) *cobra.Command {
	var f podRunFlags
	cmd := &cobra.Command{
		Use:   "run [flags] NAME -- ARGV...",
		Short: "Run a program in a new pod",
		Example: "  zap pod run -d --rootfs /srv/redis --network bridge=br0,ip=10.7.0.5/24,gateway=10.7.0.1 db -- redis-server\n" +
			"  zap pod run -t -i --rootfs /srv/debian shell -- bash",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f.options.Argv = afterDash(args[1:])
			return podRun(cmd.Context(), g, &f, args[0])
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	o := &f.options
	flags.BoolVarP(&f.detach, "detach", "d", false, "return when the pod runs")
	flags.StringVar(&o.Rootfs, "rootfs", "", "directory that becomes the pod's read-only lower layer")
	flags.StringVar(&o.BundleAt, "bundle", "", "OCI bundle to run instead: its config.json and root file system")
	flags.StringVar(&f.network, "network", "", "bridge=BR,ip=CIDR[,ip=CIDR...],mac=MAC,gateway=IP; without it only loopback")
	flags.StringArrayVarP(&o.Env, "env", "e", nil, "environment variable K=V, may be repeated")
	flags.StringVar(&f.memory, "memory", "", "limit of memory, as in 512m")
	flags.Float64Var(&o.CPUs, "cpus", 0, "limit of processors, as in 1.5")
	flags.StringArrayVarP(&f.volumes, "volume", "v", nil, "SRC:DST[:ro], a path of the host in the pod, may be repeated")
	flags.StringVar(&o.Hostname, "hostname", "", "host name in the pod (default: the pod's name)")
	flags.BoolVarP(&o.TTY, "tty", "t", false, "give the pod a terminal")
	flags.BoolVarP(&f.stdin, "interactive", "i", false, "keep the pod's standard input open")
	flags.StringVarP(&o.User, "user", "u", "", "UID[:GID] of the program")
	flags.StringVarP(&o.Cwd, "workdir", "w", "", "working directory of the program")
	return cmd
}

func podRun(ctx context.Context, g *globals, f *podRunFlags, name string) error {
	job, err := newJob(g, f, name)
	if err != nil {
		return err
	}
	if err := startPod(g, job); err != nil {
		return err
	}
	if f.detach {
		return nil
	}
	rt := runtime.New(g.root, g.log)
	p, err := pod.Load(rt, name)
	if err != nil {
		return err
	}
	return attachPod(ctx, p.Dir(), pod.Request{Stdin: f.stdin || f.options.TTY, Replay: true})
}

// newJob checks what was asked for before anything is made.
func newJob(g *globals, f *podRunFlags, name string) (*pod.Job, error) {
	if err := pod.CheckName(name); err != nil {
		return nil, err
	}
	rt := runtime.New(g.root, g.log)
	if _, err := os.Stat(rt.Dir(name)); err == nil {
		return nil, fmt.Errorf("pod %s: the name is in use (`zap pod rm %s` removes the pod that has it)", name, name)
	}
	o := f.options
	if o.CPUs < 0 || o.CPUs > maxCPUs {
		return nil, fmt.Errorf("flag --cpus: %v is not between 0 and %d", o.CPUs, maxCPUs)
	}
	var err error
	if f.memory != "" {
		if o.Memory, err = pod.ParseSize(f.memory); err != nil {
			return nil, fmt.Errorf("flag --memory: %w", err)
		}
	}
	for _, text := range f.volumes {
		v, err := pod.ParseVolume(text)
		if err != nil {
			return nil, err
		}
		o.Volumes = append(o.Volumes, v)
	}
	if f.network != "" {
		if o.Network, err = network.ParseFlag(f.network); err != nil {
			return nil, fmt.Errorf("flag --network: %w", err)
		}
		o.Network.HostLink = pod.HostLink(rt.Root(), name)
	}
	if o.Hostname == "" && o.BundleAt == "" {
		o.Hostname = name
	}
	bundle, err := pod.NewBundle(rt.Dir(name), pod.CgroupPath(rt.Root(), name), o)
	if err != nil {
		return nil, err
	}
	record := pod.Record{UID: pod.NewUID(), Network: o.Network, Volumes: o.Volumes, TTY: bundle.Spec.Process.Terminal}
	record.Stdin = f.stdin || record.TTY
	for _, l := range bundle.Overlay.Lower {
		record.Layers = append(record.Layers, pod.Layer{Path: l})
	}
	return &pod.Job{ID: name, Bundle: bundle, Record: record}, nil
}

// maxCPUs is more processors than any machine has.
const maxCPUs = 1 << 16

// ownFlags are the flags with which this program is started for a pod: they
// hold wherever that is.
func ownFlags(g *globals) ([]string, error) {
	flags := []string{"--root", runtime.New(g.root, g.log).Root()}
	if g.debug {
		flags = append(flags, "--debug")
	}
	if g.logPath == "" {
		return flags, nil
	}
	path, err := filepath.Abs(g.logPath)
	return append(flags, "--log", path, "--log-format", g.logFormat), err
}

// supervisorCommand is this program as the supervisor of a pod: a process of
// its own, which keeps no directory of the caller's in use.
func supervisorCommand(g *globals) (*exec.Cmd, error) {
	flags, err := ownFlags(g)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", append(flags, "supervise")...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}

// startPod starts the pod's supervisor and waits until the pod runs.
func startPod(g *globals, job *pod.Job) error {
	cmd, err := supervisorCommand(g)
	if err != nil {
		return err
	}
	jobR, jobW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer jobW.Close()
	readyR, readyW, err := os.Pipe()
	if err != nil {
		jobR.Close()
		return err
	}
	defer readyR.Close()
	cmd.ExtraFiles = []*os.File{jobR, readyW}
	err = cmd.Start()
	jobR.Close()
	readyW.Close()
	if err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	err = json.NewEncoder(jobW).Encode(job)
	jobW.Close()
	answer, rerr := io.ReadAll(readyR)
	switch {
	case string(answer) == podRuns:
		return cmd.Process.Release()
	case len(answer) > 0:
		_ = cmd.Wait()
		return errors.New(string(answer))
	}
	return fmt.Errorf("start supervisor: it ended without a word: %w", errors.Join(err, rerr, cmd.Wait()))
}

// afterDash takes the "--" off that separates a pod's name from its program.
func afterDash(args []string) []string {
	if len(args) > 0 && args[0] == "--" {
		return args[1:]
	}
	return args
}
