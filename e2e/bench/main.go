package main

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/zap-migrate/zap/e2e/stage"
)

// settings are how much is measured.
type settings struct {
	zap   string
	sizes []int // MB
	moves int
	runs  int
	quick bool
	only  string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	output := flag.String("o", "docs/bench.md", "file to write the table to; empty: none")
	flag.Parse()
	switch flag.Arg(0) {
	case "sink":
		return sink(flag.Arg(1), flag.Arg(2))
	case "zeros":
		return zeros(flag.Arg(1), flag.Arg(2), flag.Arg(3))
	case "starts":
		return startsMain(flag.Arg(1), flag.Arg(2))
	}
	if os.Geteuid() != 0 {
		return errors.New("needs root: hosts are network namespaces")
	}
	if err := ownMounts(); err != nil {
		return err
	}
	s, err := readSettings()
	if err != nil {
		return err
	}
	r := report{began: time.Now(), settings: s, machine: describeMachine(s.zap)}
	err = stage.Run("bench", os.Stderr, func(t *stage.T) {
		if s.only != "starts" {
			benchMoves(t, s, func(size sizeResult) { r.moves = append(r.moves, size) })
		}
		if s.only == "" || s.only == "starts" {
			r.starts = benchStarts(t, s)
		}
	})
	text := r.markdown()
	if err != nil {
		if len(r.moves) > 0 { // what took long is shown, but is no result
			fmt.Println(text)
		}
		return err
	}
	fmt.Println(text)
	if *output == "" {
		return nil
	}
	return os.WriteFile(*output, []byte(text), 0o644)
}

// insideName is set in the environment once the process has mounts of its own.
const insideName = "ZAP_BENCH_INSIDE"

// ownMounts starts this program again in a mount namespace of its own, in which /run is a tmpfs, as it is on most machines:
// without one CRIU probes the kernel at each start, which would be held against runc. Nothing that is mounted here outlives
// the program.
func ownMounts() error {
	if os.Getenv(insideName) == "" {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		unshare, err := exec.LookPath("unshare")
		if err != nil {
			return err
		}
		argv := append([]string{"unshare", "--mount", "--propagation", "private", "--", self}, os.Args[1:]...)
		return syscall.Exec(unshare, argv, append(os.Environ(), insideName+"=1"))
	}
	if err := syscall.Mount("run", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs on /run: %w", err)
	}
	return os.MkdirAll("/run/netns", 0o755)
}

func readSettings() (settings, error) {
	s := settings{sizes: []int{10, 300, 2048}, moves: 10, runs: 100, quick: os.Getenv("BENCH_QUICK") == "1", only: os.Getenv("BENCH_ONLY")}
	if s.quick {
		s.moves, s.runs = 2, 20
	}
	var err error
	if s.zap, err = filepath.Abs(cmp.Or(os.Getenv("ZAP"), "bin/zap")); err != nil {
		return s, err
	}
	if _, err := os.Stat(s.zap); err != nil {
		return s, fmt.Errorf("%w (make build)", err)
	}
	os.Setenv("ZAP", s.zap)
	for name, to := range map[string]*int{"BENCH_MOVES": &s.moves, "BENCH_RUNS": &s.runs} {
		if text := os.Getenv(name); text != "" {
			if *to, err = strconv.Atoi(text); err != nil || *to < 1 {
				return s, fmt.Errorf("%s=%s: not a number above 0", name, text)
			}
		}
	}
	if text := os.Getenv("BENCH_SIZES"); text != "" {
		s.sizes = nil
		for field := range strings.SplitSeq(text, ",") {
			mb, err := strconv.Atoi(field)
			if err != nil || mb < 1 {
				return s, fmt.Errorf("BENCH_SIZES=%s: not sizes in MB", text)
			}
			s.sizes = append(s.sizes, mb)
		}
	}
	return s, nil
}

// machine is where the figures come from.
type machine struct {
	system, kernel, processor, memory string
	load                              string // average over the minute before
	programs                          []string
}

func describeMachine(zap string) machine {
	var m machine
	m.system = strings.Trim(field("/etc/os-release", "PRETTY_NAME="), `"`)
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.kernel = strings.TrimSpace(string(release))
	model := strings.TrimSpace(strings.TrimLeft(field("/proc/cpuinfo", "model name"), "\t :"))
	cpus, _ := os.ReadFile("/proc/cpuinfo")
	m.processor = fmt.Sprintf("%d x %s", bytes.Count(cpus, []byte("processor\t")), cmp.Or(model, "unknown processor"))
	kib, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(field("/proc/meminfo", "MemTotal:")), " kB"))
	m.memory = fmt.Sprintf("%d GiB", (kib+1<<19)>>20)
	load, _ := os.ReadFile("/proc/loadavg")
	m.load, _, _ = strings.Cut(string(load), " ")
	for _, argv := range [][]string{{zap, "--version"}, {"runc", "--version"}, {"crun", "--version"}, {criuPath(), "--version"}, {"redis-server", "--version"}} {
		out, err := exec.Command(argv[0], argv[1:]...).Output()
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		if err != nil {
			line = fmt.Sprintf("%s: %v", filepath.Base(argv[0]), err)
		}
		if number, ok := strings.CutPrefix(line, "Version: "); ok {
			line = "CRIU " + number
		}
		if server, _, ok := strings.Cut(line, " sha="); ok {
			line = server
		}
		m.programs = append(m.programs, line)
	}
	return m
}

// field is the rest of the first line of a file that begins with prefix.
func field(path, prefix string) string {
	data, _ := os.ReadFile(path)
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return strings.TrimRight(rest, "\n")
		}
	}
	return ""
}
