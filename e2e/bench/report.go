package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// report is everything that one run of the benchmark has found.
type report struct {
	settings
	began   time.Time
	machine machine
	moves   []sizeResult
	starts  starts
}

// Targets, as ratios to the way by hand, unless they say otherwise.
const (
	targetReply10  = 1.0 / 20
	targetReply300 = 1.0 / 6
	targetTotal    = 1.0 / 2
	targetRate     = 0.8 // of zeros
	targetMemory   = 64 << 20
	targetRun      = 0.6  // of crun, wall and CPU
	targetRunc     = 0.25 // of runc
	targetBeside   = 0.8  // of crun: exec, and many side by side
)

// median of values, of which there is at least one.
func median[T int64 | float64](values []T) T {
	s := slices.Sorted(slices.Values(values))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// of takes one figure of each move.
func of[M any, T any](moves []M, figure func(M) T) []T {
	all := make([]T, len(moves))
	for i, m := range moves {
		all[i] = figure(m)
	}
	return all
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmark\n\nWritten by `make bench`, which runs zap and what it is compared with in turns, on the same machine and the same data.\n\n")
	r.writeMachine(&b)
	if len(r.moves) > 0 {
		r.writeMoves(&b)
		r.writeRates(&b)
		r.writeMemory(&b)
	}
	if len(r.starts) > 0 {
		r.writeStarts(&b)
	}
	r.writeTargets(&b)
	return b.String()
}

func (r *report) writeMachine(b *strings.Builder) {
	m := r.machine
	fmt.Fprintf(b, "| | |\n|---|---|\n| date | %s, %s |\n", r.began.UTC().Format("2006-01-02"), time.Since(r.began).Round(time.Second))
	fmt.Fprintf(b, "| command | `%s` |\n", r.command())
	fmt.Fprintf(b, "| machine | %s, %s, %s, Linux %s; load %s before the run |\n", m.processor, m.memory, m.system, m.kernel, m.load)
	fmt.Fprintf(b, "| programs | %s |\n\n", strings.Join(m.programs, "; "))
}

// command is how to repeat the run.
func (r *report) command() string {
	var sizes []string
	for _, mb := range r.sizes {
		sizes = append(sizes, fmt.Sprint(mb))
	}
	text := fmt.Sprintf("BENCH_MOVES=%d BENCH_RUNS=%d BENCH_SIZES=%s make bench", r.settings.moves, r.runs, strings.Join(sizes, ","))
	if text == "BENCH_MOVES=10 BENCH_RUNS=100 BENCH_SIZES=10,300,2048 make bench" {
		text = "make bench"
	}
	if r.only != "" {
		text = "BENCH_ONLY=" + r.only + " " + text
	}
	return text
}

func (r *report) writeMoves(b *strings.Builder) {
	fmt.Fprintf(b, `## Moving a redis

A redis goes from one host to the other and back, %d moves for each line, zap's pod and runc's container in turns. It has as much data as the table
says: %s. Hosts are
network namespaces of one machine, joined by veth. A client on one TCP connection sends INCR all the time, a millisecond after each reply, and
checks every one. Medians; the least and the most in brackets.

*By hand* is [byhand.sh](../e2e/bench/byhand.sh): `+"`runc checkpoint --tcp-established`"+` with images on tmpfs, images and upper layer to the other host
with tar over plain TCP, `+"`runc restore`"+` there, the link attached and announced. Both begin with nothing on the other host but the root file system,
and end with nothing left on this one. Zap sends the memory of the larger ones ahead while they run; `+"`--mode stop`"+` does not. By hand has the advantage that no ssh is in the way, nothing is encrypted, and CRIU locks with nftables
instead of its default, iptables-restore.

| data | | client's worst reply, ms | total, ms | bytes on the wire | CPU, ms |
|---:|---|---:|---:|---:|---:|
`, r.settings.moves, mixture)
	for _, s := range r.moves {
		if s.missing != "" {
			fmt.Fprintf(b, "| %s | not measured: %s | | | | |\n", sizeName(s.mb), s.missing)
			continue
		}
		for _, way := range []struct {
			name  string
			moves []move
		}{{"by hand", s.byhand}, {"zap", s.zap}, {"zap --mode stop", s.stop}} {
			if len(way.moves) == 0 {
				continue
			}
			fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s |\n", sizeName(s.mb), way.name,
				spread(of(way.moves, func(m move) float64 { return ms(m.worst) })), spread(of(way.moves, func(m move) float64 { return ms(m.total) })),
				megabytes(median(of(way.moves, func(m move) int64 { return m.wire }))), spread(of(way.moves, func(m move) float64 { return ms(m.cpu) })))
		}
		if len(s.zap) == 0 {
			continue
		}
		fmt.Fprintf(b, "| | **zap / by hand** | **%s** | **%s** | **%s** | **%s** |\n", fraction(s.reply()), fraction(s.total()),
			fraction(s.ratio(func(m move) float64 { return float64(m.wire) })), fraction(s.ratio(func(m move) float64 { return float64(m.cpu) })))
	}
	b.WriteString("\nCPU is that of every process of the move on both hosts, by cgroup. Bytes are those that left the source's cable, headers included. " +
		"By hand, step by step (ms): ")
	var lines []string
	for _, s := range r.moves {
		var steps []string
		for _, name := range []string{"prepare", "checkpoint", "copy", "restore", "clear"} {
			if len(s.byhand) > 0 {
				steps = append(steps, fmt.Sprintf("%s %.0f", name, median(of(s.byhand, func(m move) float64 { return m.steps[name] }))))
			}
		}
		lines = append(lines, sizeName(s.mb)+": "+strings.Join(steps, ", "))
	}
	b.WriteString(strings.Join(lines, "; ") + ".\n\n")
}

// ratio is zap's median of a figure by the other's.
func (s sizeResult) ratio(figure func(move) float64) float64 {
	return median(of(s.zap, figure)) / median(of(s.byhand, figure))
}

func (s sizeResult) reply() float64 { return s.ratio(func(m move) float64 { return ms(m.worst) }) }
func (s sizeResult) total() float64 { return s.ratio(func(m move) float64 { return ms(m.total) }) }

// rates are zap's rate and that of zeros, in bytes a second, where they were measured.
func (s sizeResult) rates() (zap, zeros float64) {
	if len(s.stop) == 0 {
		return 0, 0
	}
	return median(of(s.stop, func(m move) float64 { return m.memory })), median(of(s.stop, func(m move) float64 { return m.zeros }))
}

func (r *report) writeRates(b *strings.Builder) {
	for _, s := range r.moves {
		if zap, zeros := s.rates(); zeros > 0 {
			fmt.Fprintf(b, `### Throughput

With `+"`--mode stop`"+` memory of the %s redis went at **%s/s** (from the frozen pod to the target's word that all pages are there). Two processes in the same hosts, with a
connection made by the same code (TLS 1.3, same frames, buffers and writes), zeros in and everything dropped at the other end, before each move: %s/s.
That is **%.0f %%**. zap compresses where it pays, so it may be above 100 %%.

`, sizeName(s.mb), megabytes(int64(zap)), megabytes(int64(zeros)), 100*zap/zeros)
		}
	}
}

func (r *report) writeMemory(b *strings.Builder) {
	peaks := map[int]map[string]int64{}
	names := map[string]bool{}
	for _, s := range r.moves {
		peaks[s.mb] = s.peaks()
		for name := range peaks[s.mb] {
			names[name] = true
		}
	}
	if len(names) == 0 {
		return
	}
	columns := slices.Sorted(maps.Keys(names))
	b.WriteString("### Memory of zap's own processes\n\nThe most that was resident (`VmHWM`), the worst of all moves.\n\n| data |")
	for _, name := range columns {
		fmt.Fprintf(b, " %s |", name)
	}
	b.WriteString("\n|---:|" + strings.Repeat("---:|", len(columns)) + "\n")
	for _, s := range r.moves {
		if len(s.zap) == 0 {
			continue
		}
		fmt.Fprintf(b, "| %s |", sizeName(s.mb))
		for _, name := range columns {
			fmt.Fprintf(b, " %.1f MiB |", float64(peaks[s.mb][name])/(1<<20))
		}
		b.WriteString("\n")
	}
	b.WriteString("\n")
}

// peaks is the worst of each process over all moves. Servers take turns in being the target, so they count as one.
func (s sizeResult) peaks() map[string]int64 {
	all := map[string]int64{}
	for _, m := range slices.Concat(s.zap, s.stop) {
		for name, peak := range m.usage.peaks {
			if strings.HasPrefix(name, "zap serve") {
				name = "zap serve"
			}
			all[name] = max(all[name], peak)
		}
	}
	return all
}

// kinds are the tables of starts.
var kinds = []struct{ kind, title string }{
	{kindRun, "`run` of `/bin/true`"},
	{kindLifecycle, "`create`, `start` and `delete` of the same"},
	{kindExec, "`exec` of `/bin/true`"},
	{kindParallel, fmt.Sprintf("%d times `run`, side by side", sideBySide)},
}

func (r *report) writeStarts(b *strings.Builder) {
	fmt.Fprintf(b, `## Starting a container

The bundle is what `+"`runc spec`"+` writes (all its namespaces, mounts and cgroups; no terminal) with the seccomp profile of Debian's engines. %d runs of each
runtime in turns, half as many of `+"`create`, `start`, `delete`"+`, %d of what takes long. Medians; 5 %% and 95 %% in brackets.

| | | wall, ms | CPU, ms |
|---|---|---:|---:|
`, r.runs, fewRounds)
	for _, k := range kinds {
		for i, name := range runtimes {
			runs := r.starts[k.kind][name]
			if len(runs) == 0 {
				continue
			}
			title := k.title
			if i > 0 {
				title = ""
			}
			fmt.Fprintf(b, "| %s | %s | %s | %s |\n", title, name,
				quantiles(of(runs, func(s start) float64 { return ms(s.Wall) })), quantiles(of(runs, func(s start) float64 { return ms(s.CPU) })))
		}
		for _, other := range runtimes[1:] {
			if wall, cpu, ok := r.startRatio(k.kind, other); ok {
				fmt.Fprintf(b, "| | **zap / %s** | **%.2f** | **%.2f** |\n", other, wall, cpu)
			}
		}
	}
	b.WriteString("\nMemory at the peak of `run`, everything that is charged to the runtime and its children, the kernel's part included:")
	separator := " "
	for _, name := range runtimes {
		if runs := r.starts[kindMemory][name]; len(runs) > 0 {
			fmt.Fprintf(b, "%s%s %.1f MiB", separator, name, float64(median(of(runs, func(s start) int64 { return s.Peak })))/(1<<20))
			separator = ", "
		}
	}
	b.WriteString(".\n\n")
}

// startRatio is zap's median by the other's.
func (r *report) startRatio(kind, other string) (wall, cpu float64, ok bool) {
	ours, theirs := r.starts[kind]["zap"], r.starts[kind][other]
	if len(ours) == 0 || len(theirs) == 0 {
		return 0, 0, false
	}
	by := func(figure func(start) float64) float64 { return median(of(ours, figure)) / median(of(theirs, figure)) }
	return by(func(s start) float64 { return ms(s.Wall) }), by(func(s start) float64 { return ms(s.CPU) }), true
}

func (r *report) writeTargets(b *strings.Builder) {
	b.WriteString("## Targets\n\n| | target | measured | |\n|---|---:|---:|---|\n")
	row := func(what, target, got string, reached bool) {
		verdict := "reached"
		if !reached {
			verdict = "**missed**"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", what, target, got, verdict)
	}
	var peak int64
	for _, s := range r.moves {
		if len(s.zap) == 0 {
			continue
		}
		for mb, target := range map[int]float64{10: targetReply10, 300: targetReply300} {
			if s.mb == mb {
				row("client's worst reply, "+sizeName(mb), "by hand x "+fraction(target), "x "+fraction(s.reply()), s.reply() <= target)
			}
		}
		row("total time, "+sizeName(s.mb), "by hand x "+fraction(targetTotal), "x "+fraction(s.total()), s.total() <= targetTotal)
		if zap, zeros := s.rates(); zeros > 0 {
			row("throughput of memory, "+sizeName(s.mb), fmt.Sprintf("%.0f %% of zeros", 100*targetRate), fmt.Sprintf("%.0f %%", 100*zap/zeros), zap/zeros >= targetRate)
		}
		for _, p := range s.peaks() {
			peak = max(peak, p)
		}
	}
	if peak > 0 {
		row("memory of any process of zap", fmt.Sprintf("%d MiB", targetMemory>>20), fmt.Sprintf("%.1f MiB", float64(peak)/(1<<20)), peak < targetMemory)
	}
	for _, g := range []struct {
		what, kind, other string
		target            float64
		cpu               bool
	}{
		{"run, wall", kindRun, "crun", targetRun, false},
		{"run, CPU", kindRun, "crun", targetRun, true},
		{"run, wall", kindRun, "runc", targetRunc, false},
		{"exec, wall", kindExec, "crun", targetBeside, false},
		{fmt.Sprintf("%d side by side, wall", sideBySide), kindParallel, "crun", targetBeside, false},
	} {
		if wall, cpu, ok := r.startRatio(g.kind, g.other); ok {
			got := wall
			if g.cpu {
				got = cpu
			}
			row(g.what, fmt.Sprintf("%s x %.2f", g.other, g.target), fmt.Sprintf("x %.2f", got), got <= g.target)
		}
	}
}

func sizeName(mb int) string {
	if mb >= 1024 && mb%1024 == 0 {
		return fmt.Sprintf("%d GB", mb/1024)
	}
	return fmt.Sprintf("%d MB", mb)
}

// fraction prints a ratio: 1/20 rather than 0.05.
func fraction(x float64) string {
	if x > 0 && x < 0.4 {
		return "1/" + strings.TrimSuffix(fmt.Sprintf("%.1f", 1/x), ".0")
	}
	return fmt.Sprintf("%.2f", x)
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func spread(values []float64) string {
	return fmt.Sprintf("%s (%s-%s)", figures(median(values)), figures(slices.Min(values)), figures(slices.Max(values)))
}

func quantiles(values []float64) string {
	s := slices.Sorted(slices.Values(values))
	return fmt.Sprintf("%.1f (%.1f-%.1f)", median(values), s[len(s)*5/100], s[min(len(s)-1, len(s)*95/100)])
}

// figures prints three figures of a number, and all of a large one.
func figures(x float64) string {
	if x < 100 {
		return fmt.Sprintf("%.1f", x)
	}
	return fmt.Sprintf("%.0f", x)
}
