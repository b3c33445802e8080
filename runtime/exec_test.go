package runtime

import (
	"errors"
	"io"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/zap-migrate/zap/runtime/boot"
)

// TestExec checks that another process is in all of the container's namespaces and its cgroup, and leads a session of its own.
func TestExec(t *testing.T) {
	l := newLab(t)
	b := l.bundle("sleep 1000")
	b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	if !hasNamespace(b, specs.CgroupNamespace) { // on cgroup v2 the default bundle has one
		b.Spec.Linux.Namespaces = append(b.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	b.Spec.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 5_000_000}}
	b.Spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_SYS_PTRACE"}, Permitted: []string{"CAP_SYS_PTRACE"}, Effective: []string{"CAP_SYS_PTRACE"}}
	c := l.create("one", b)
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	out, code := l.exec(c, `for n in cgroup ipc mnt net pid time uts; do
		[ "$(readlink /proc/self/ns/$n)" = "$(readlink /proc/1/ns/$n)" ] || echo "other $n namespace"; done
	[ "$(cat /proc/self/cgroup)" = "$(cat /proc/1/cgroup)" ] || echo other cgroup
	read up rest </proc/uptime; [ "${up%.*}" -gt 5000000 ] || echo "uptime $up"
	read pid comm state ppid pgrp session rest </proc/self/stat; [ "$session" = "$$" ] || echo "session $session"
	for f in 3 4 5 6 7 8 9; do [ -e /proc/$$/fd/$f ] && echo "descriptor $f"; done
	exit 3`)
	if out != "" || code != 3 {
		t.Errorf("exit code %d, output %q", code, out)
	}
}

// TestExecFailures checks what callers look for in the errors, and that a failure leaves the container alone.
func TestExecFailures(t *testing.T) {
	l := newLab(t)
	c := l.create("one", l.bundle("sleep 1000"))
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ program, want string }{
		{"nothing", `exec "nothing": executable file not found in $PATH (process: process.args)`},
		{"/bin/nothing", `exec "/bin/nothing": no such file or directory (process: process.args)`},
		{"/etc/plain", `exec "/etc/plain": permission denied (process: process.args)`},
		{"/etc", `exec "/etc": permission denied (process: process.args)`},
	} {
		p := *c.State().Bundle.Spec.Process
		p.Args = []string{test.program}
		_, err := c.Exec(l.ctx, ExecOptions{Process: &p})
		var failure *boot.Failure
		if !errors.As(err, &failure) || failure.Error() != test.want {
			t.Errorf("exec %s: %v, want %s", test.program, err, test.want)
		}
	}
	if got := c.Status(); got != specs.StateRunning {
		t.Errorf("status %s afterwards", got)
	}
}

// TestOwnBinaryIsOutOfReach runs programs that name the process's own executable: none may be the runtime's.
func TestOwnBinaryIsOutOfReach(t *testing.T) {
	l := newLab(t)
	for _, args := range [][]string{{"/proc/self/exe", "-test.list", "TestOwnBinary"}, {"/bin/self"}} {
		b := l.bundle("")
		b.Spec.Process.Args = args
		output, input := l.pipe()
		c, err := l.runtime.Run(l.ctx, "test", b, CreateOptions{Stdin: devNull(t), Stdout: input, Stderr: input})
		input.Close()
		if err != nil {
			continue // refused is fine too
		}
		text, _ := io.ReadAll(output)
		l.remove(c)
		if strings.Contains(string(text), "TestOwnBinary") || len(text) > 0 {
			t.Errorf("%v ran something that answered %q", args, text)
		}
	}
}
