package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/zap-migrate/zap/criu"
	"github.com/zap-migrate/zap/e2e"
)

//go:embed byhand.sh
var byhandScript []byte

// byhandTimeout bounds one verb of the script.
const byhandTimeout = 3 * time.Minute

// byhand is a container that runc keeps, and the script that moves it.
type byhand struct {
	t      testing.TB
	lab    *e2e.Lab
	script string
	env    []string
	wrap   []string // put before every command
	pod    e2e.Pod
	peer   string // address of the host that the next move goes to
}

// criuPath is the CRIU that zap uses, and so runc too.
func criuPath() string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	b, err := criu.Find(ctx, "")
	if err != nil {
		return "criu"
	}
	return b.Path
}

// newByhand makes a pod like zap's, and its network on one host.
func newByhand(t testing.TB, l *e2e.Lab, m *meter, pod e2e.Pod) *byhand {
	b := &byhand{t: t, lab: l, script: l.Path("byhand.sh"), wrap: m.wrap(), pod: pod}
	if err := os.WriteFile(b.script, byhandScript, 0o755); err != nil {
		t.Fatal(err)
	}
	args, err := json.Marshal(pod.Args)
	if err != nil {
		t.Fatal(err)
	}
	host := func(address string) string { return address[:strings.LastIndexByte(address, ':')] }
	b.env = append(os.Environ(),
		"PATH="+filepath.Dir(criuPath())+":"+os.Getenv("PATH"),
		"DIR="+l.Path("byhand"), "LAB="+strings.TrimSuffix(string(l.Hosts[0].NetNS), "-"+l.Hosts[0].Name), "ID="+pod.Name, "CGROUP=/"+m.name, "ROOTFS="+pod.Rootfs,
		"BRIDGE="+e2e.Bridge, "IP="+host(pod.Addr(0)), "IP6="+strings.Trim(host(pod.Addr6(0)), "[]"), "MAC="+fmt.Sprintf("02:00:00:00:00:%02x", pod.Number), "ARGS="+string(args))
	t.Cleanup(func() {
		for _, h := range l.Hosts {
			b.verb("clear", h.Name)
		}
	})
	return b
}

// verb runs one verb of the script to its end.
func (b *byhand) verb(args ...string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), byhandTimeout)
	defer cancel()
	argv := append(append(b.wrap[:len(b.wrap):len(b.wrap)], b.script), args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(b.env[:len(b.env):len(b.env)], "PEER="+b.peer)
	r := e2e.Run(ctx, cmd)
	if r.Err != nil {
		b.t.Fatalf("byhand.sh %s: %v", strings.Join(args, " "), r)
	}
	return r.Stdout
}

// start runs the container on a host.
func (b *byhand) start(h *e2e.Host) {
	b.t.Helper()
	for _, h := range b.lab.Hosts {
		b.verb("bundle", h.Name)
	}
	b.verb("run", h.Name)
}

// move moves the container. Like zap's, it begins with nothing on the other host but the root file system and the bundle, and
// ends with nothing left on this one.
func (b *byhand) move(from, to *e2e.Host) (took time.Duration, steps map[string]float64) {
	b.t.Helper()
	b.peer = to.Addr.String()
	begin := time.Now()
	out := strings.Fields(b.verb("move", from.Name, to.Name))
	took = time.Since(begin)
	steps = map[string]float64{}
	for i := 0; i+1 < len(out); i += 2 {
		steps[out[i]], _ = strconv.ParseFloat(out[i+1], 64)
	}
	b.verb("free", to.Name)
	return took, steps
}
