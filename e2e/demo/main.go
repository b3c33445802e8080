package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/zap-migrate/zap/e2e"
	"github.com/zap-migrate/zap/e2e/stage"
)

const (
	dataMB = 10                     // in the redis
	think  = time.Millisecond       // of the client, after each reply
	calm   = 2 * time.Second        // before, between and after the moves
	glance = 300 * time.Millisecond // for the last of the clients' replies
)

func main() {
	picture := flag.String("o", "build/demo.png", "file to draw the picture to")
	flag.Parse()
	if err := run(*picture); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(picture string) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: hosts are network namespaces")
	}
	zap, err := filepath.Abs(cmp.Or(os.Getenv("ZAP"), "bin/zap"))
	if err != nil {
		return err
	}
	if _, err := os.Stat(zap); err != nil {
		return fmt.Errorf("%w (make build)", err)
	}
	os.Setenv("ZAP", zap)
	var d *demo
	if err := stage.Run("demo", os.Stderr, func(t *stage.T) { d = show(t) }); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(picture), 0o755); err != nil {
		return err
	}
	if err := drawPicture(picture, d.began, d.moves, d.client.Samples); err != nil {
		return err
	}
	d.summarize(os.Stdout, picture)
	return nil
}

// demo is what was seen.
type demo struct {
	began  time.Time // of the client
	moves  []*story
	client e2e.CounterReport
}

// show does everything that is shown.
func show(t testing.TB) *demo {
	l := e2e.NewLab(t)
	alpha, beta := l.Host("alpha"), l.Host("beta")
	client := l.NewClient()
	say("Two hosts, alpha and beta, each a network namespace with a bridge; a third, with the client; a switch between them.")
	say("  $ zap keys init keys alpha beta")
	for _, h := range l.Hosts {
		say("  %s# zap serve --listen %s --tls keys/%s", h.Name, h.Peer(), h.Name)
		h.Serve(t)
	}
	rootfs := e2e.RedisRootfs(t)
	path, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatalf("%v (make deps installs it)", err)
	}
	pod := e2e.Pod{
		Name: l.PodName("redis"), Rootfs: rootfs, Number: 50,
		Args: []string{path, "--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--appendonly", "no"},
	}
	before := map[*e2e.Host]e2e.Inventory{alpha: alpha.Inventory(t), beta: beta.Inventory(t)}
	say("  alpha# zap pod run -d --rootfs redis --network %s \\\n           %s -- redis-server ...", pod.Network(), pod.Name)
	alpha.RunPod(t, pod)
	e2e.FillRedis(t, client, pod.Addr(6379), dataMB<<20)
	say("It holds %d MB. The client opens one TCP connection, sends INCR all the time and checks that every reply is one more.", dataMB)

	d := &demo{began: time.Now()}
	counter := e2e.NewCounter(t, client, pod.Addr(6379), "visits", think)
	for _, hop := range []struct{ from, to *e2e.Host }{{alpha, beta}, {beta, alpha}} {
		time.Sleep(calm)
		say("\n  %s# zap migrate --tls keys/%s %s %s", hop.from.Name, hop.from.Name, pod.Name, hop.to.Peer())
		s := tell(t, hop.from, hop.to, pod.Name)
		counter.WantProgress(t)
		time.Sleep(glance)
		s.look(counter)
		d.moves = append(d.moves, s)
		s.print(os.Stdout)
	}
	time.Sleep(calm)
	d.client = counter.Stop()
	if d.client.Err != nil {
		t.Fatalf("the client: %v", d.client.Err)
	}
	alpha.Zap(t, "pod", "rm", "--force", pod.Name)
	for h, inventory := range before {
		h.WantSame(t, inventory, "file: .criu", "file: .network", "file: layers")
	}
	return d
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }
