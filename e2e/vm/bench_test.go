package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
	"github.com/zap-migrate/zap/e2e/vm/remote"
)

const (
	benchBallast = 32  // MiB of memory that the moved program holds
	benchDirty   = 200 // pages of it that it writes to in a second
	benchRounds  = 5   // moves of each kind that are counted; one more is made before
	byHandScript = "/usr/local/bin/byhand.sh"
)

// contents are what the moved program's memory is full of, with the flag of the program for it.
var contents = []struct{ name, flag, text string }{
	{"numbers", "-numbers=true", "A number in every page, the rest zeros"},
	{"noise", "-numbers=false", "Random bytes, which do not compress"},
}

var benchModes = []string{"stop", "pre"}

// kind is a way of moving one kind of program.
type kind struct{ content, mode, who string }

// sample is one move: the longest wait of the client, and from the command to its end.
type sample struct{ pause, total time.Duration }

// bench is the benchmark's laboratory.
type bench struct {
	*Lab
	source, target *Machine
	rootfs         string // on both
	client         e2e.NetNS
	number         int // of the next pod
}

// TestBench moves a program by hand, with runc, and with zap, in turns between the same machines, and writes what it took to the file that
// ZAP_VM_BENCH names (make bench-vm).
func TestBench(t *testing.T) {
	path := os.Getenv("ZAP_VM_BENCH")
	if path == "" {
		t.Skip("wanted only with ZAP_VM_BENCH=FILE: make bench-vm")
	}
	b := newBench(t)
	began, load := time.Now(), loadAverage()
	samples := map[kind][]sample{}
	for round := range 1 + benchRounds {
		for _, k := range kinds(round%2 == 1) {
			name := fmt.Sprintf("%s %s %s %d", k.who, k.mode, k.content, round)
			ok := t.Run(name, func(t *testing.T) {
				s := b.move(t, k)
				t.Logf("pause %v, total %v", s.pause.Round(time.Millisecond), s.total.Round(time.Millisecond))
				if round > 0 { // the first brings zap's layer over, and both programs' own into memory
					samples[k] = append(samples[k], s)
				}
			})
			if !ok {
				t.Fatalf("%s did not go through", name)
			}
		}
	}
	text := b.report(began, load, samples)
	t.Logf("\n%s", text)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// kinds lists all kinds of moves, the two who are compared behind each other.
func kinds(zapFirst bool) (all []kind) {
	whos := []string{"runc", "zap"}
	if zapFirst {
		slices.Reverse(whos)
	}
	for _, c := range contents {
		for _, mode := range benchModes {
			for _, who := range whos {
				all = append(all, kind{c.name, mode, who})
			}
		}
	}
	return all
}

func newBench(t *testing.T) *bench {
	l := NewLab(t, "alpha", "beta")
	k := l.Kernel(Stable)
	// The processor has instructions for AES, as all have had for many years: otherwise this would be a benchmark of TLS without them.
	const processor = "Westmere"
	// Nor should it be one of QEMU's translator: all programs of both ways stay translated.
	const code = 1024
	machines := l.BootAll(
		Spec{Name: "alpha", Kernel: k, Criu: CriuTesting, CPU: processor, Code: code}, Spec{Name: "beta", Kernel: k, Criu: CriuTesting, CPU: processor, Code: code},
	)
	dir := tellerRootfs(t)
	b := &bench{Lab: l, source: machines[0], target: machines[1], client: l.NewClient(), number: 60}
	for _, m := range machines {
		m.Quiet = true
		m.Copy("testdata/byhand.sh", byHandScript)
		b.rootfs = rootfsIn(m, dir, "teller")
	}
	b.target.Serve(t)
	return b
}

// move starts a program on the source, moves it, and removes it.
func (b *bench) move(t *testing.T, k kind) sample {
	t.Helper()
	b.number++
	i := slices.IndexFunc(contents, func(c struct{ name, flag, text string }) bool { return c.name == k.content })
	pod := e2e.Pod{
		Name: fmt.Sprintf("%s-%d", k.who, b.number), Number: byte(b.number), Rootfs: b.rootfs,
		Args: []string{"/bin/teller", "-ballast", fmt.Sprint(benchBallast), "-dirty", fmt.Sprint(benchDirty), contents[i].flag},
	}
	move := b.byZap
	if k.who == "runc" {
		move = b.byHand
	}
	return move(t, pod, k.mode)
}

func (b *bench) byZap(t *testing.T, pod e2e.Pod, mode string) sample {
	b.source.RunPod(t, pod)
	defer b.target.TryZap(t, "pod", "rm", "--force", pod.Name)
	return b.measure(t, pod, func() {
		begin := time.Now()
		m := b.source.StartMove(t, pod.Name, b.target.Host, e2e.MoveOptions{Args: []string{"--idle", patience, "--mode", mode}})
		if r := m.Wait(); r.Err != nil || m.Final.Result != "migrated" {
			t.Fatalf("migrate: %v", r)
		}
		var steps strings.Builder
		for _, e := range m.Events {
			if e.Event == "phase" || e.Event == "round" {
				fmt.Fprintf(&steps, "%s %d, ", strings.TrimSpace(e.Side+" "+e.Phase), e.At.Sub(begin).Milliseconds())
			}
		}
		t.Logf("%s%s", &steps, m.Final.Raw)
	})
}

func (b *bench) byHand(t *testing.T, pod e2e.Pod, mode string) sample {
	argv, err := json.Marshal(pod.Args)
	if err != nil {
		t.Fatal(err)
	}
	env := []string{
		"ID=" + pod.Name, "ROOTFS=" + pod.Rootfs, "ARGS=" + string(argv),
		fmt.Sprintf("IP=10.88.0.%d", pod.Number), fmt.Sprintf("MAC=02:00:00:00:00:%02x", pod.Number),
	}
	do := func(m *Machine, args ...string) error {
		var said strings.Builder
		request := remote.Request{Args: append([]string{byHandScript}, args...), Env: env}
		code, err := m.Run(commandTimeout, request, remote.Streams{Stdout: &said, Stderr: &said})
		if err != nil || code != 0 {
			return fmt.Errorf("%s on %s: code %d, %v: %s", args[0], m.Name, code, err, said.String())
		}
		return nil
	}
	must := func(m *Machine, args ...string) {
		t.Helper()
		if err := do(m, args...); err != nil {
			t.Fatal(err)
		}
	}
	defer must(b.target, "remove")
	defer must(b.source, "remove") // again, if all went well
	must(b.source, "prepare")
	must(b.source, "start")
	return b.measure(t, pod, func() {
		must(b.target, "prepare")
		taken := make(chan error, 1)
		go func() { taken <- do(b.target, "take", mode) }()
		must(b.source, "give", mode, b.target.Addr.String())
		if err := <-taken; err != nil {
			t.Fatal(err)
		}
		must(b.source, "remove")
	})
}

// measure moves a program while a client asks it.
func (b *bench) measure(t *testing.T, pod e2e.Pod, move func()) sample {
	t.Helper()
	client := newListener(t, b.client, pod.Addr(7100))
	client.kernels(t)
	time.Sleep(time.Second) // it writes to its memory
	client.pause()
	begin := time.Now()
	move()
	s := sample{total: time.Since(begin)}
	client.kernels(t)
	s.pause = client.pause()
	return s
}

// report is the page with the result.
func (b *bench) report(began time.Time, load string, samples map[kind][]sample) string {
	var text strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&text, format, args...) }
	version := func(m *Machine, argv ...string) string {
		first, _, _ := strings.Cut(m.Command(argv...), "\n")
		return first
	}
	say("# Benchmark between virtual machines\n\nWritten by `make bench-vm`.\n\n| | |\n|---|---|\n| date | %s, %s |\n", began.UTC().Format("2006-01-02"),
		time.Since(began).Round(time.Second))
	say("| machines | 2, one processor and 1 GiB each, Linux %s; %s, on a machine with %d processors and a load of %s before the run |\n",
		b.source.Spec.Kernel.Release, accelerated(), runtime.NumCPU(), load)
	say("| programs | %s; %s; CRIU %s |\n\n", version(b.source, "zap", "--version"), version(b.source, "runc", "--version"),
		strings.TrimPrefix(version(b.source, "/usr/local/lib/zap/criu/sbin/criu", "--version"), "Version: "))
	say("A program with %d MiB of memory, which writes to %d pages of that in every second, goes from one machine to the other, %d times each way of moving it, in turns. ",
		benchBallast, benchDirty, benchRounds)
	say("A client\noutside asks it on one TCP connection all the time and checks every answer. Medians; the least and the most in brackets. ")
	say("The two are\ncompared in pairs, a move by hand with the move by zap beside it, for the machine that emulates is not equally fast all the time.\n\n")
	say("*By hand* is [byhand.sh](../e2e/vm/testdata/byhand.sh): `runc checkpoint`, images on tmpfs, tar over plain TCP, `runc restore`; in `pre` two pre-dumps go first. ")
	say("Both begin\nwith nothing on the target but the root file system, and end with nothing left on the source. By hand has the advantage that nothing is ")
	say("encrypted, and that the target's script\nwaits already, with no ssh in the way. The machines are slow, so only the ratios mean anything.\n\n")
	for _, c := range contents {
		say("## %s\n\n", c.text)
		say("| mode | | the client's longest wait, ms | total, ms |\n|---|---|---:|---:|\n")
		for _, mode := range benchModes {
			text.WriteString(rows(mode, samples[kind{c.name, mode, "runc"}], samples[kind{c.name, mode, "zap"}]))
		}
		say("\n")
	}
	return strings.TrimSuffix(text.String(), "\n")
}

// rows are the lines of a table about one mode.
func rows(mode string, hand, zap []sample) string {
	var text strings.Builder
	pause, total := func(s sample) float64 { return 1000 * s.pause.Seconds() }, func(s sample) float64 { return 1000 * s.total.Seconds() }
	for i, all := range [][]sample{hand, zap} {
		fmt.Fprintf(&text, "| %s | %s | %s | %s |\n", mode, []string{"by hand", "zap"}[i], spreadOf(all, pause).format("%.0f"), spreadOf(all, total).format("%.0f"))
	}
	p, q := ratios(hand, zap, pause), ratios(hand, zap, total)
	fmt.Fprintf(&text, "| | **zap / by hand** | **%s**, %s | **%s**, %s |\n", p.format("%.2f"), reached(p.median, 1.0/3, "1/3"), q.format("%.2f"), reached(q.median, 1.0/2, "1/2"))
	return text.String()
}

// spread is a median, and the least and the most of what it is of.
type spread struct{ median, least, most float64 }

func newSpread(values []float64) spread {
	slices.Sort(values)
	return spread{values[len(values)/2], values[0], values[len(values)-1]}
}

func (s spread) format(number string) string {
	return fmt.Sprintf(number+" ("+number+"-"+number+")", s.median, s.least, s.most)
}

func spreadOf(all []sample, figure func(sample) float64) spread {
	var values []float64
	for _, s := range all {
		values = append(values, figure(s))
	}
	return newSpread(values)
}

// ratios compares two ways of moving, round by round.
func ratios(hand, zap []sample, figure func(sample) float64) spread {
	var values []float64
	for i := range hand {
		values = append(values, figure(zap[i])/figure(hand[i]))
	}
	return newSpread(values)
}

func reached(got, target float64, words string) string {
	if got <= target {
		return "target " + words + " reached"
	}
	return "target " + words + " missed"
}

// loadAverage is how many processes this machine had to do something for in the last minute.
func loadAverage() string {
	data, _ := os.ReadFile("/proc/loadavg")
	load, _, _ := strings.Cut(string(data), " ")
	return load
}

// accelerated says what runs the guests' instructions.
func accelerated() string {
	if kind := os.Getenv("ZAP_VM_ACCEL"); kind != "" {
		return kind
	}
	return "emulated"
}
