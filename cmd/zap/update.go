package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/docker/go-units"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/zap-migrate/zap/runtime"
	"github.com/zap-migrate/zap/spec"
)

// updateFlags are the flags of update.
type updateFlags struct {
	resources, l3Cache, memBw string
	blkioWeight               uint16
	pidsLimit                 int64
	values                    map[string]*string
}

// updateValues are the flags whose values are words for update; numbers among them may be anything that the kernel takes.
var updateValues = []struct{ name, usage string }{
	{"cpu-period", "microseconds in which the quota may be used up; 0 is the kernel's default"},
	{"cpu-quota", "microseconds of processor time in each period; -1 is no limit"},
	{"cpu-burst", "microseconds beyond the quota that may be saved up"},
	{"cpu-share", "weight against other containers, 2 to 262144"},
	{"cpu-rt-period", "microseconds in which the real-time budget may be used up; 0 is the kernel's default"},
	{"cpu-rt-runtime", "microseconds of real-time budget in each period"},
	{"cpu-idle", "1 to run only when nobody else wants to, 0 to run as others"},
	{"cpuset-cpus", "processors to run on: 0-2,7"},
	{"cpuset-mems", "memory nodes to use: 0-2,7"},
	{"memory", "limit of memory, in bytes or with a unit (64M); -1 is none"},
	{"memory-reservation", "memory that is left to the container when it is short, in bytes or with a unit"},
	{"memory-swap", "limit of memory and swap together, in bytes or with a unit; -1 is none"},
	{"kernel-memory", "accepted: kernels have no such limit"},
	{"kernel-memory-tcp", "accepted: kernels have no such limit"},
}

func (f *updateFlags) register(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVarP(&f.resources, "resources", "r", "", `file with new limits as JSON (linux.resources of config.json), or "-"; then other limits are ignored`)
	fs.StringVar(&f.l3Cache, "l3-cache-schema", "", "schema of Intel RDT/CAT for the L3 cache")
	fs.StringVar(&f.memBw, "mem-bw-schema", "", "schema of Intel RDT/MBA for memory bandwidth")
	fs.Uint16Var(&f.blkioWeight, "blkio-weight", 0, "weight of block I/O, 10 to 1000")
	fs.Int64Var(&f.pidsLimit, "pids-limit", 0, "most processes and threads; -1 is no limit")
	f.values = map[string]*string{}
	for _, v := range updateValues {
		f.values[v.name] = fs.String(v.name, "", v.usage)
	}
	_, _ = fs.MarkHidden("kernel-memory"), fs.MarkHidden("kernel-memory-tcp")
}

func newUpdateCommand(g *globals) *cobra.Command {
	f := new(updateFlags)
	cmd := &cobra.Command{
		Use:   "update [flags] CONTAINER",
		Short: "Change the limits of a container",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadSettled(g, args[0])
			if err != nil {
				return err
			}
			l := runtime.Limits{L3CacheSchema: f.l3Cache, MemBwSchema: f.memBw, Document: "flags"}
			if f.resources != "" {
				if l.Document = f.resources; l.Document == "-" {
					l.Document = "standard input"
				}
				l.Resources, err = loadResources(f.resources, cmd.InOrStdin())
			} else {
				l.Resources, err = f.limits(cmd)
			}
			if err != nil {
				return err
			}
			return c.Limit(cmd.Context(), l)
		},
	}
	f.register(cmd)
	return cmd
}

// loadResources reads limits from a file, or from standard input for "-".
func loadResources(path string, stdin io.Reader) (*specs.LinuxResources, error) {
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		stdin = file
	}
	r := new(specs.LinuxResources)
	if err := json.NewDecoder(io.LimitReader(stdin, spec.MaxConfigSize)).Decode(r); err != nil {
		return nil, fmt.Errorf("read limits %s: %w", path, err)
	}
	return r, nil
}

// limits turns flags into limits.
func (f *updateFlags) limits(cmd *cobra.Command) (*specs.LinuxResources, error) {
	m, u := new(specs.LinuxMemory), new(specs.LinuxCPU)
	r := &specs.LinuxResources{Memory: m, CPU: u, Pids: &specs.LinuxPids{}, BlockIO: &specs.LinuxBlockIO{}}
	if f.blkioWeight != 0 {
		r.BlockIO.Weight = &f.blkioWeight
	}
	if cmd.Flags().Changed("pids-limit") {
		r.Pids.Limit = &f.pidsLimit
	}
	u.Cpus, u.Mems = *f.values["cpuset-cpus"], *f.values["cpuset-mems"]
	for name, to := range map[string]**uint64{
		"cpu-burst": &u.Burst, "cpu-period": &u.Period, "cpu-rt-period": &u.RealtimePeriod, "cpu-share": &u.Shares,
	} {
		if err := parseFlag(name, *f.values[name], to, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }); err != nil {
			return nil, err
		}
	}
	for name, to := range map[string]**int64{"cpu-quota": &u.Quota, "cpu-rt-runtime": &u.RealtimeRuntime, "cpu-idle": &u.Idle} {
		if err := parseFlag(name, *f.values[name], to, func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) }); err != nil {
			return nil, err
		}
	}
	for name, to := range map[string]**int64{
		"memory": &m.Limit, "memory-swap": &m.Swap, "memory-reservation": &m.Reservation,
		//lint:ignore SA1019 it is still sent
		"kernel-memory": &m.Kernel, "kernel-memory-tcp": &m.KernelTCP,
	} {
		if err := parseFlag(name, *f.values[name], to, parseBytes); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// parseFlag parses the value of a flag unless it is empty.
func parseFlag[T any](name, text string, to **T, parse func(string) (T, error)) error {
	if text == "" {
		return nil
	}
	v, err := parse(text)
	if err != nil {
		return fmt.Errorf("invalid value for %s: %w", name, err)
	}
	*to = &v
	return nil
}

// parseBytes reads a number of bytes, with a unit of powers of 1024 or without, or -1.
func parseBytes(text string) (int64, error) {
	if text == "-1" {
		return -1, nil
	}
	return units.RAMInBytes(text)
}
