package runtime

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// profile loads an AppArmor profile that allows everything but to write files whose names begin with denied, and returns its name. It is
// removed with the test.
func profile(t *testing.T, denied string) string {
	t.Helper()
	if enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled"); !strings.HasPrefix(string(enabled), "Y") {
		t.Skip("needs a kernel with AppArmor in use (make test-guest has one)")
	}
	if _, err := exec.LookPath("apparmor_parser"); err != nil {
		t.Skipf("needs Debian's apparmor: %v", err)
	}
	name := fmt.Sprintf("zap-test-%d-%s", os.Getpid(), strings.ToLower(denied))
	text := fmt.Sprintf("profile %s flags=(attach_disconnected,mediate_deleted) {\n"+
		"file, capability, network, mount, umount, pivot_root, signal, ptrace, unix,\ndeny /tmp/%s* w,\n}\n", name, denied)
	parse := func(option string) error {
		cmd := exec.Command("apparmor_parser", option, "--skip-cache")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apparmor_parser %s: %w: %s", option, err, out)
		}
		return nil
	}
	if err := parse("--replace"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := parse("--remove"); err != nil {
			t.Error(err)
		}
	})
	return name
}

// TestAppArmor has the kernel say which profile a container's processes run under, and refuse what that denies: to the first process, to
// one that was added with it, and to one that was added with another.
func TestAppArmor(t *testing.T) {
	first, other := profile(t, "first"), profile(t, "other")
	l := newLab(t)
	const attempts = "cat /proc/self/attr/current; for f in first other; do (: >/tmp/$f$$) 2>/dev/null && echo $f; done"
	b := l.bundle(attempts)
	b.Spec.Process.ApparmorProfile = first
	b.Spec.Root.Readonly = false
	l.wantOutput(b, first+" (enforce)\nother\n")

	b = l.bundle("sleep 1000")
	b.Spec.Process.ApparmorProfile = first
	b.Spec.Root.Readonly = false
	c := l.create("one", b)
	if err := c.Start(l.ctx); err != nil {
		t.Fatal(err)
	}
	if out, code := l.exec(c, attempts); out != first+" (enforce)\nother\n" {
		t.Errorf("exec: %q, code %d", out, code)
	}
	k := l.converse(func(o CreateOptions) error {
		p := *b.Spec.Process
		p.ApparmorProfile, p.Args = other, []string{"sh", "-c", attempts}
		process, err := c.Exec(l.ctx, ExecOptions{Process: &p, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr})
		if err == nil {
			l.reap(process)
		}
		return err
	})
	for _, want := range []string{other + " (enforce)\n", "first\n"} {
		if got, err := k.out.ReadString('\n'); got != want {
			t.Errorf("exec under another profile: %q, %v, want %q", got, err, want)
		}
	}
}

// TestAppArmorRefusals: a profile that is not there is an error with its place, also with no_new_privs on the way.
func TestAppArmorRefusals(t *testing.T) {
	name := profile(t, "first")
	l := newLab(t)
	b := l.bundle("true")
	b.Spec.Process.ApparmorProfile = name + "-not"
	_, err := l.runtime.Create(l.ctx, "one", b, CreateOptions{Stdin: devNull(t), Stdout: devNull(t), Stderr: devNull(t)})
	if want := "apply AppArmor profile " + name + "-not: no such file or directory (config.json: process.apparmorProfile)"; err == nil ||
		!strings.Contains(err.Error(), want) {
		t.Errorf("create: %v, want %s", err, want)
	}
	b = l.bundle("cat /proc/self/attr/current")
	b.Spec.Process.ApparmorProfile, b.Spec.Process.NoNewPrivileges = name, true
	b.Spec.Process.Capabilities = &specs.LinuxCapabilities{}
	l.wantOutput(b, name+" (enforce)\n")
}
