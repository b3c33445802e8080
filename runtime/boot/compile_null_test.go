package boot

import (
	"strings"
	"testing"

	"github.com/zap-migrate/zap/spec"
)

// TestNullStreams compiles standard streams that are the null device: they are opened again in a /dev of the container's own, and not where
// that is an image's, or where a terminal takes their place.
func TestNullStreams(t *testing.T) {
	compile := func(terminal bool, mounts int, null [3]bool) string {
		s := spec.Default()
		s.Process.Terminal = terminal
		s.Mounts = s.Mounts[:mounts]
		p, err := Compile(s, Facts{Root: "/bundle/rootfs", Files: map[string]bool{}, NullStreams: null})
		if err != nil {
			t.Fatal(err)
		}
		return p.String()
	}
	const step = `openat(AT_FDCWD, "/dev/null", O_RDWR`
	all := len(spec.Default().Mounts)
	got := compile(false, all, [3]bool{true, false, true})
	for call, want := range map[string]int{step: 1, "dup3(null, 0, 0)": 1, "dup3(null, 1, 0)": 0, "dup3(null, 2, 0)": 1} {
		if n := strings.Count(got, call); n != want {
			t.Errorf("the program has %d times %s, want %d", n, call, want)
		}
	}
	for name, got := range map[string]string{
		"no null device": compile(false, all, [3]bool{}),
		"a terminal":     compile(true, all, [3]bool{true, true, true}),
		"no own /dev":    compile(false, 1, [3]bool{true, true, true}),
	} {
		if strings.Contains(got, step) {
			t.Errorf("with %s the program has %s", name, step)
		}
	}
}
