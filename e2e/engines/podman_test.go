package engines

import (
	"cmp"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/zap-migrate/zap/e2e/cell"
)

// image is the image of busybox under the names of its applets, with two users.
const image = "localhost/busybox"

// runtimeName is zap, or another runtime to see what that one does.
var runtimeName = cmp.Or(os.Getenv("ENGINES_RUNTIME"), "zap")

// engine is podman with zap, as a test uses it.
type engine struct{ t *testing.T }

// podmanSettings tells podman of zap, once, as the README says, and makes the image.
var podmanSettings = sync.OnceValue(func() (err error) {
	if err := followReadme("/etc/containers/"); err != nil {
		return err
	}
	tar, err := busyboxTar()
	if err != nil {
		return err
	}
	defer os.Remove(tar)
	if r := run("podman", "import", "-c", "CMD /bin/sh", tar, image); r.Code != 0 || r.Err != nil {
		return errorOf(r)
	}
	return nil
})

// newPodman is podman for one test. When that ends, nothing of it may be left.
func newPodman(t *testing.T) *engine {
	t.Helper()
	cell.Need(t)
	if err := podmanSettings(); err != nil {
		t.Fatal(err)
	}
	e := &engine{t}
	t.Cleanup(func() {
		for _, args := range [][]string{{"pod", "rm", "-f", "-a", "-t", "0"}, {"rm", "-f", "-a", "-t", "0"}, {"volume", "rm", "-f", "-a"}} {
			r := e.try(args...)
			if r.Code != 0 || r.Err != nil {
				t.Error(r)
			}
		}
		wantNothingLeft(t)
	})
	return e
}

// try runs podman with zap.
func (e *engine) try(args ...string) result {
	return run(append([]string{"podman", "--runtime", runtimeName}, args...)...)
}

// do runs podman with zap, which has to succeed, and returns what it prints.
func (e *engine) do(args ...string) string {
	e.t.Helper()
	return must(e.t, append([]string{"podman", "--runtime", runtimeName}, args...)...)
}

// want runs podman and compares what it prints.
func (e *engine) want(want string, args ...string) {
	e.t.Helper()
	if got := e.do(args...); got != want {
		e.t.Errorf("podman %s printed %q, not %q", strings.Join(args, " "), got, want)
	}
}

// wantCode runs podman and compares its exit code.
func (e *engine) wantCode(want int, args ...string) result {
	e.t.Helper()
	r := e.try(args...)
	if r.Code != want || r.Err != nil {
		e.t.Errorf("the exit code is not %d: %v", want, r)
	}
	return r
}

// TestPodmanRun starts containers that end by themselves.
func TestPodmanRun(t *testing.T) {
	e := newPodman(t)
	t.Log(e.do("version", "--format", "podman {{.Client.Version}}"))
	t.Log(e.do("info", "--format", "{{.Host.OCIRuntime.Name}} {{.Host.OCIRuntime.Version}}, cgroups {{.Host.CgroupsVersion}} {{.Host.CgroupManager}}, "+
		"kernel {{.Host.Kernel}}, {{.Host.Conmon.Version}}"))
	e.want("hello", "run", "--rm", image, "echo", "hello")
	e.want("hello", "run", image, "echo", "hello")
	r := e.wantCode(3, "run", "--rm", image, "sh", "-c", "echo out; echo err >&2; exit 3")
	if r.Stdout != "out\n" || r.Stderr != "err\n" {
		t.Errorf("the streams are mixed up: %v", r)
	}
	e.wantCode(137, "run", "--rm", "--init", image, "sh", "-c", "kill -9 $$")
	e.wantCode(143, "run", "--rm", "--init", image, "sh", "-c", "kill $$")
	if r := e.wantCode(127, "run", "--rm", image, "nothing-there"); !strings.Contains(r.Stderr, "nothing-there") {
		t.Errorf("what was not found is not named: %v", r)
	}
	e.wantCode(126, "run", "--rm", image, "/etc/passwd")
	e.wantCode(125, "run", "--rm", "--no-such-flag", image)
	r = runWith("typed\n", "podman", "--runtime", runtimeName, "run", "-i", "--rm", image, "cat")
	if r.Stdout != "typed\n" {
		t.Errorf("standard input does not arrive: %v", r)
	}
}

// TestPodmanReadsErrors: podman takes errors from the runtime's log in JSON, where its settings say that the runtime has one. Then it knows
// what they mean, and shows them whole.
func TestPodmanReadsErrors(t *testing.T) {
	e := newPodman(t)
	e.do("run", "-d", "--name", "there", image, "sleep", "7777")
	for _, c := range []struct {
		code int
		args []string
		want string
	}{
		{127, []string{"run", "--rm", image, "nothing-there"}, `exec "nothing-there": executable file not found in $PATH (config.json: process.args)`},
		{126, []string{"run", "--rm", image, "/etc/passwd"}, `exec "/etc/passwd": permission denied (config.json: process.args)`},
		{127, []string{"exec", "there", "nothing-there"}, "executable file not found in $PATH"},
		{126, []string{"exec", "there", "/etc/passwd"}, "permission denied"},
		{127, []string{"run", "--rm", "--sysctl", "net.none=1", image, "true"}, "set sysctl net.none: no such file or directory (config.json: linux.sysctl.net.none)"},
	} {
		if r := e.try(c.args...); r.Code != c.code || !strings.Contains(r.Stderr, c.want) || strings.Contains(r.Stderr, `"level"`) {
			t.Errorf("want %d, %q: %v", c.code, c.want, r)
		}
	}
}
