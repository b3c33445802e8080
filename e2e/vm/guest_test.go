package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
	"github.com/zap-migrate/zap/e2e/vm/remote"
)

// guestPackages are the packages whose tests depend on the kernel.
var guestPackages = []string{
	"runtime/boot", "runtime/boot/nofile", "runtime/cgroup", "runtime", "criu", "network", "network/stream",
	"pod", "pod/pages", "pod/preflight", "pod/migrate", "cmd/zap",
}

// guestTimeout bounds the tests of one package; in emulation everything takes ten times as long.
const guestTimeout = 5 * time.Minute

// TestGuest runs the packages' own tests in a machine with a stock Debian kernel, where there is nothing but cgroup v2, and where memory
// has soft-dirty tracking. ZAP_VM_PACKAGES names other packages, ZAP_VM_RUN is for their -test.run, ZAP_VM_SUITE and ZAP_VM_CGROUP
// say what machine.
func TestGuest(t *testing.T) {
	l := NewLab(t)
	packages, suite := guestPackages, Stable
	if list := os.Getenv("ZAP_VM_PACKAGES"); list != "" {
		packages = strings.Fields(list)
	}
	if s := os.Getenv("ZAP_VM_SUITE"); s != "" {
		suite = s
	}
	binaries := buildTests(t, packages)
	s := Spec{Name: "guest", Kernel: l.Kernel(suite), Cgroup: os.Getenv("ZAP_VM_CGROUP"), Memory: 2048}
	if suite == Newest {
		s.Criu = CriuUpcoming
	}
	m := l.Boot(s)
	m.Copy(repositoryFiles(t, l), "/srv/zap")
	for _, p := range packages {
		t.Run(p, func(t *testing.T) {
			m.Copy(filepath.Join(binaries, testName(p)), "/srv/tests/"+testName(p))
			var out bytes.Buffer
			args := []string{"/srv/tests/" + testName(p), "-test.v", "-test.timeout=" + guestTimeout.String()}
			if run := os.Getenv("ZAP_VM_RUN"); run != "" {
				args = append(args, "-test.run="+run)
			}
			r := remote.Request{Args: args, Dir: "/srv/zap/" + p, Env: []string{"ZAP=" + zapInGuest, "ZAP_TEST_SLOWNESS=10"}}
			begin := time.Now()
			code, err := m.Run(guestTimeout+time.Minute, r, remote.Streams{Stdout: &out, Stderr: &out})
			passed, skipped := strings.Count(out.String(), "\n--- PASS"), strings.Count(out.String(), "\n--- SKIP")
			t.Logf("%d tests passed, %d skipped, in %.0f s", passed, skipped, time.Since(begin).Seconds())
			if err != nil || code != 0 {
				t.Errorf("code %d, %v:\n%s", code, err, failures(out.String()))
			}
			if passed == 0 && os.Getenv("ZAP_VM_RUN") == "" {
				t.Errorf("no test passed:\n%s", out.String())
			}
		})
	}
}

// testName is the file name of a package's tests.
func testName(pkg string) string { return strings.ReplaceAll(pkg, "/", "-") + ".test" }

// buildTests compiles the packages' tests into a directory.
func buildTests(t *testing.T, packages []string) string {
	t.Helper()
	dir := filepath.Join(e2e.Scratch(t), "tests")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range packages {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		cmd := exec.CommandContext(ctx, "go", "test", "-c", "-buildvcs=false", "-ldflags=-s -w", "-o", filepath.Join(dir, testName(p)), path.Join("github.com/zap-migrate/zap", p))
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out := new(bytes.Buffer)
		cmd.Stdout, cmd.Stderr = out, out
		err := e2e.RunChild(cmd)
		cancel()
		if err != nil {
			t.Fatalf("go test -c %s: %v: %s", p, err, out)
		}
	}
	return dir
}

// repositoryFiles copies what tests read, the repository's files without programs, into a directory of the laboratory's.
func repositoryFiles(t *testing.T, l *Lab) string {
	t.Helper()
	to := l.Path("repository")
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("cd ../.. && tar -c --exclude=./.git --exclude=./bin --exclude=./build . | tar -C %s -x", to)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := command(ctx, "", "sh", "-c", script); err != nil {
		t.Fatal(err)
	}
	return to
}

var verdict = regexp.MustCompile(`^ *--- (PASS|FAIL|SKIP): ([^ ]+)`)

// failures is what failing tests printed in a run with -test.v, and no more than a few screens of it.
func failures(out string) string {
	said, current := map[string][]string{}, ""
	var order, failed []string
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if f := strings.Fields(line); len(f) == 3 && f[0] == "===" {
			current = f[2]
			continue
		}
		if v := verdict.FindStringSubmatch(line); v != nil {
			if v[1] == "FAIL" {
				failed = append(failed, v[2])
			}
			current = v[2]
			continue
		}
		if said[current] == nil {
			order = append(order, current)
		}
		said[current] = append(said[current], line)
	}
	kept := []string{"failed: " + strings.Join(failed, " ")}
	for i, name := range order { // what came last may have no name: a panic
		if slices.Contains(failed, name) || i == len(order)-1 {
			kept = append(append(kept, name+":"), said[name]...)
		}
	}
	if most := 200; len(kept) > most {
		kept = append(kept[:most], fmt.Sprintf("and %d lines more", len(kept)-most))
	}
	return strings.Join(kept, "\n")
}
