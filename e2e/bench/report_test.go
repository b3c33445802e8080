package main

import (
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 4}, 4}, {[]float64{4, 1, 2, 100}, 3}} {
		if got := median(c.values); got != c.want {
			t.Errorf("median of %v is %v, not %v", c.values, got, c.want)
		}
	}
}

func TestFraction(t *testing.T) {
	for x, want := range map[float64]string{0.05: "1/20", 0.5: "0.50", 1.94: "1.94", 0: "0.00"} {
		if got := fraction(x); got != want {
			t.Errorf("%v is printed %s, not %s", x, got, want)
		}
	}
}

// invented is a run with known ratios: replies 1/25, totals 0.7, memory at 90 % of zeros, starts 0.75 of crun's.
func invented() *report {
	r := &report{settings: settings{moves: 2, runs: 2, sizes: []int{10, 2048}}, began: time.Now(), starts: starts{}}
	for _, mb := range r.sizes {
		s := sizeResult{mb: mb}
		for range r.settings.moves {
			z := move{worst: 50 * time.Millisecond, total: 700 * time.Millisecond, memory: 900e6}
			z.usage.peaks = map[string]int64{"zap migrate": 30 << 20, "zap serve on alpha": 70 << 20}
			if mb == 2048 {
				z.zeros = 1000e6
				s.stop = append(s.stop, z)
			}
			s.zap = append(s.zap, z)
			s.byhand = append(s.byhand, move{worst: 1250 * time.Millisecond, total: time.Second, steps: map[string]float64{"copy": 40}})
		}
		r.moves = append(r.moves, s)
	}
	for name, wall := range map[string]time.Duration{"zap": 15, "crun": 20, "runc": 40} {
		for _, kind := range []string{kindRun, kindExec, kindParallel, kindLifecycle, kindMemory} {
			r.starts.add(kind, name, start{wall * time.Millisecond, time.Millisecond, 2 << 20})
		}
	}
	return r
}

// TestVerdicts wants the table to say which targets were reached, and the sums to be right.
func TestVerdicts(t *testing.T) {
	text := invented().markdown()
	for _, want := range []string{
		"| client's worst reply, 10 MB | by hand x 1/20 | x 1/25 | reached |",
		"| total time, 10 MB | by hand x 0.50 | x 0.70 | **missed** |",
		"| throughput of memory, 2 GB | 80 % of zeros | 90 % | reached |",
		"| memory of any process of zap | 64 MiB | 70.0 MiB | **missed** |",
		"| run, wall | crun x 0.60 | x 0.75 | **missed** |",
		"| exec, wall | crun x 0.80 | x 0.75 | reached |",
		"| | **zap / runc** | **0.38** | **1.00** |",
		"zap 2.0 MiB, crun 2.0 MiB, runc 2.0 MiB",
		"| 2 GB | 30.0 MiB | 70.0 MiB |",
		"BENCH_MOVES=2 BENCH_RUNS=2 BENCH_SIZES=10,2048 make bench",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
}

// TestMissingSize wants a size that did not fit to be named and to be counted nowhere.
func TestMissingSize(t *testing.T) {
	r := invented()
	r.moves[1] = sizeResult{mb: 2048, missing: "needs more memory"}
	text := r.markdown()
	if !strings.Contains(text, "| 2 GB | not measured: needs more memory |") || strings.Contains(text, "2 GB | by hand") {
		t.Errorf("the report hides that a size is missing:\n%s", text)
	}
}
