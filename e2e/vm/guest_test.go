package vm

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
	"github.com/zap-migrate/zap/e2e/vm/remote"
)

// guestPackages are the packages whose tests depend on the kernel, for two machines beside each other that have about as much to do. Of
// the others (spec, network/stream) no test does.
var guestPackages = [][]string{
	{"runtime/boot", "runtime/boot/nofile", "runtime/vdso", "runtime", "pod", "network"},
	{"runtime/cgroup", "cmd/zap", "criu", "pod/pages", "pod/migrate", "pod/preflight"},
}

// leftOut are tests that the kernel has no part in, and that take long in emulation. make test runs them.
var leftOut = map[string][]string{
	// Hundreds of containers, one path or flag after the other.
	"runtime": {"TestHostileImage", "TestCVE202421626", "TestBindFlags"},
	// Some ninety pods that may not move, each for another reason.
	"pod/preflight": {"TestInspectBlocked"},
	// What zap says to itself or to a pretended CRIU, at length.
	"pod/pages": {"TestMemoryDoesNotGrow.*", "TestImages", "TestReceiverFails", "TestRoundsBeforeADump", "TestRoundsEnd"},
}

// chosen are all that run of packages most of whose tests the kernel has no part in.
var chosen = map[string][]string{
	"cmd/zap": {
		"TestRootless.*", "TestEvents.*", "TestUpdateResources", "TestPause.*", "TestSubCgroups", "TestExecCgroup", "TestExecFollowsInit",
		"TestVerbs", "TestRunVerb", "TestCheckThisMachine", "TestCheckpointVerb", "TestClocksOfUserNamespace", "TestKillWithoutPidNamespace", "TestPs",
	},
}

// wanted are tests that must pass here and not skip: what other machines that zap is tested on do not have. A name with a slash is a
// subtest's.
var wanted = map[string][]string{
	"runtime/cgroup": {
		"TestLimitsAreInPlace/v2", "TestMemoryLimitKills/v2", "TestPidsLimitHolds/v2", "TestQuotaThrottles/v2", "TestDeviceRules/v2",
		"TestDeviceRulesAreReplaced", "TestUnifiedMetrics", "TestFreezeAndThaw/v2", "TestFrozenWithANewcomer", "TestKillNowOnAFrozenGroup/v2",
	},
	"runtime": {
		"TestPreDump", "TestAppArmor", "TestAppArmorRefusals", "TestDelegation", "TestCheckpointRestore", "TestCheckpointOfRunc",
		"TestCreateWithoutMemory",
	},
	"pod/pages": {"TestTrackedRounds", "TestMovedPages", "TestMoveMemoryOfARealProcess"},
	"cmd/zap": {
		"TestEventsOOM", "TestUpdateResources", "TestPauseAndResume", "TestRootless", "TestRootlessRange",
		"TestRootlessDelegated", "TestRootlessOutOfMemory",
	},
}

// guestTimeout bounds the tests of one package; in emulation everything takes ten times as long.
const guestTimeout = 12 * time.Minute

// TestGuest runs the packages' own tests in machines with a stock Debian kernel, where there is nothing but cgroup v2, where memory has
// soft-dirty tracking, and where AppArmor is in use. ZAP_VM_PACKAGES names packages for one machine, ZAP_VM_RUN is for their -test.run,
// ZAP_VM_SUITE and ZAP_VM_CGROUP say what machine.
func TestGuest(t *testing.T) {
	l := NewLab(t)
	machines, suite := guestPackages, cmp.Or(os.Getenv("ZAP_VM_SUITE"), Stable)
	if list := os.Getenv("ZAP_VM_PACKAGES"); list != "" {
		machines = [][]string{strings.Fields(list)}
	}
	binaries := buildTests(t, slices.Concat(machines...))
	files := repositoryFiles(t, l)
	var specs []Spec
	for i := range machines {
		s := Spec{Name: fmt.Sprintf("guest%d", i+1), Kernel: l.Kernel(suite), Cgroup: os.Getenv("ZAP_VM_CGROUP"), Memory: 2048}
		if suite == Newest {
			s.Criu = CriuUpcoming
		}
		specs = append(specs, s)
	}
	for i, m := range l.BootAll(specs...) {
		t.Run(m.Name, func(t *testing.T) {
			t.Parallel()
			if err := m.copyIn(files, "/srv/zap"); err != nil {
				t.Fatal(err)
			}
			for _, p := range machines[i] {
				t.Run(p, func(t *testing.T) { runInGuest(t, m, p, binaries) })
			}
			t.Logf("the machine had a processor for %.0f s", m.processorTime().Seconds())
		})
	}
}

// runInGuest runs a package's tests on a machine.
func runInGuest(t *testing.T, m *Machine, pkg, binaries string) {
	if err := m.copyIn(filepath.Join(binaries, testName(pkg)), "/srv/tests/"+testName(pkg)); err != nil {
		t.Fatal(err)
	}
	var buffer bytes.Buffer
	args := []string{"/srv/tests/" + testName(pkg), "-test.v", "-test.timeout=" + guestTimeout.String()}
	run := os.Getenv("ZAP_VM_RUN")
	switch skip, only := leftOut[pkg], chosen[pkg]; {
	case run != "":
		args = append(args, "-test.run="+run)
	case only != nil:
		args = append(args, "-test.run=^("+strings.Join(only, "|")+")$")
	case skip != nil:
		args = append(args, "-test.skip=^("+strings.Join(skip, "|")+")$")
	}
	r := remote.Request{Args: args, Dir: "/srv/zap/" + pkg, Env: []string{"ZAP=" + zapInGuest, "ZAP_TEST_SLOWNESS=10"}}
	begin := time.Now()
	code, err := m.Run(guestTimeout+time.Minute, r, remote.Streams{Stdout: &buffer, Stderr: &buffer})
	out := buffer.String()
	passed, skipped := strings.Count(out, "\n--- PASS"), skips(out)
	t.Logf("%d tests passed in %.0f s; slowest: %s; skipped: %s", passed, time.Since(begin).Seconds(), slowest(out), strings.Join(skipped, "; "))
	if err != nil || code != 0 {
		t.Errorf("code %d, %v:\n%s", code, err, failures(out))
		return
	}
	if run != "" || m.Spec.Cgroup != "" {
		return
	}
	if passed == 0 {
		t.Errorf("no test passed:\n%s", out)
	}
	for _, name := range wanted[pkg] {
		if !regexp.MustCompile(`(?m)^ *--- PASS: ` + regexp.QuoteMeta(name) + ` `).MatchString(out) {
			t.Errorf("%s did not pass here", name)
		}
	}
}

// slowest names the tests that took the most time.
func slowest(out string) string {
	type test struct {
		name    string
		seconds float64
	}
	var all []test
	for _, m := range regexp.MustCompile(`(?m)^--- (?:PASS|FAIL): (\S+) \(([0-9.]+)s\)`).FindAllStringSubmatch(out, -1) {
		seconds, _ := strconv.ParseFloat(m[2], 64)
		all = append(all, test{m[1], seconds})
	}
	slices.SortFunc(all, func(a, b test) int { return cmp.Compare(b.seconds, a.seconds) })
	var words []string
	for _, x := range all[:min(len(all), 5)] {
		words = append(words, fmt.Sprintf("%s %.0f s", x.name, x.seconds))
	}
	return strings.Join(words, ", ")
}

// skips lists the tests that skipped, with what they said.
func skips(out string) []string {
	var all []string
	said := map[string]string{}
	current, last := "", ""
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if f := strings.Fields(line); len(f) == 3 && f[0] == "===" {
			current, last = f[2], ""
			continue
		}
		if v := verdict.FindStringSubmatch(line); v != nil {
			if v[1] == "SKIP" {
				all = append(all, v[2]+": "+cmp.Or(said[v[2]], last))
			}
			continue
		}
		last = strings.TrimSpace(line)
		said[current] = last
	}
	return all
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
