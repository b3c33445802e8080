package runtime

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	goruntime "runtime"
	"strings"
	"syscall"

	godbus "github.com/godbus/dbus/v5"

	"github.com/zap-migrate/zap/runtime/cgroup"
)

// makeScope has systemd make the container's cgroup. A scope is made around a process, and the container has none yet: one that is stopped
// before its first instruction stands in for it until the container's own is there.
func (c *creation) makeScope() error {
	path := ""
	if l := c.bundle.Spec.Linux; l != nil {
		path = l.CgroupsPath
	}
	u, err := cgroup.ParseUnit(path, c.id, os.Geteuid() != 0)
	if err != nil {
		return err
	}
	if u.Properties, err = unitProperties(c.bundle.Spec.Annotations); err != nil {
		return err
	}
	if old, err := cgroup.Load(unitPath(u)); err == nil {
		if pids, err := old.Procs(); err == nil && len(pids) > 0 {
			return fmt.Errorf("container's cgroup is not empty: %d process(es) found in %s", len(pids), old.Path())
		}
	}
	pid, end, err := standIn()
	if err != nil {
		return fmt.Errorf("start process for scope %s: %w", u.Name, err)
	}
	c.closers = append(c.closers, end)
	if c.cgroup, err = u.Start(c.ctx, pid, resources(c.bundle)); err != nil {
		return err
	}
	c.unit = &u
	return nil
}

// unitPath is where a unit of the host's systemd is expected to have its cgroup.
func unitPath(u cgroup.Unit) string {
	slice, err := cgroup.ExpandSlice(u.Slice)
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(slice, "/") + "/" + u.Name
}

// standIn starts a process that does nothing and costs nothing: it stops at its execve, for ptrace. end kills it.
func standIn() (pid int, end func(), err error) {
	type started struct {
		pid int
		err error
	}
	ready, over := make(chan started), make(chan struct{})
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		goruntime.LockOSThread() // whose end would let the process go
		cmd := exec.Command("/proc/self/exe")
		cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true, Setsid: true, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			ready <- started{err: err}
			return
		}
		ready <- started{pid: cmd.Process.Pid}
		<-over
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	s := <-ready
	if s.err != nil {
		return 0, nil, s.err
	}
	return s.pid, func() { close(over); <-gone }, nil
}

// unitPrefix begins the names of annotations that are properties of the container's unit.
const unitPrefix = "org.systemd.property."

// unitProperties reads the annotations org.systemd.property.NAME, whose values are variants as gdbus(1) writes them. A time in seconds,
// NAMESec, is what systemd itself calls NAMEUSec, in microseconds.
func unitProperties(annotations map[string]string) (map[string]godbus.Variant, error) {
	out := map[string]godbus.Variant{}
	for key, text := range annotations {
		name, ok := strings.CutPrefix(key, unitPrefix)
		if !ok {
			continue
		}
		if len(name) < 3 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
			return nil, fmt.Errorf("annotation %s: %q is no name of a property (config.json: annotations)", key, name)
		}
		value, err := godbus.ParseVariant(text, godbus.Signature{})
		if err != nil {
			return nil, fmt.Errorf("annotation %s: value %q: %w (config.json: annotations)", key, text, err)
		}
		base, ok := strings.CutSuffix(name, "Sec")
		if ok && base != "" && base[len(base)-1] >= 'a' && base[len(base)-1] <= 'z' {
			if value, err = microseconds(value); err != nil {
				return nil, fmt.Errorf("annotation %s: %w (config.json: annotations)", key, err)
			}
			name = base + "USec"
		}
		out[name] = value
	}
	return out, nil
}

// microseconds multiplies a number of seconds.
func microseconds(v godbus.Variant) (godbus.Variant, error) {
	const million = 1000000
	switch n := v.Value().(type) {
	case int32:
		return godbus.MakeVariant(uint64(n) * million), nil
	case uint32:
		return godbus.MakeVariant(uint64(n) * million), nil
	case int64:
		return godbus.MakeVariant(uint64(n) * million), nil
	case uint64:
		return godbus.MakeVariant(n * million), nil
	case float64:
		return godbus.MakeVariant(uint64(n * million)), nil
	}
	return v, fmt.Errorf("%s is no number of seconds", v)
}

// stopUnit ends the container's unit, if systemd made its cgroup.
func (c *Container) stopUnit(ctx context.Context) {
	if c.state.SystemdUnit == "" {
		return
	}
	if err := (cgroup.Unit{Name: c.state.SystemdUnit}).Stop(ctx); err != nil {
		c.runtime.log.Warn("stop unit of container", "container", c.ID(), "error", err.Error())
	}
}
