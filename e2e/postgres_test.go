package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// session is a psql that takes one statement after the other.
type session struct {
	t     *testing.T
	stdin io.Writer
	out   *bufio.Reader
	count int
	close func()
}

// database is how to reach a PostgreSQL in a pod, by libpq's environment.
func database(p Pod) []string {
	return append(os.Environ(), "PGHOST="+strings.TrimSuffix(p.Addr(0), ":0"), "PGPORT=5432", "PGUSER=postgres", "PGDATABASE=postgres",
		"PGCONNECT_TIMEOUT=20", "PGSSLMODE=disable", "LC_ALL=C")
}

func newSession(t *testing.T, from NetNS, p Pod) *session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	cmd := enter(ctx, from, filepath.Join(newestPostgres(t), "psql"), "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1")
	cmd.Env = database(p)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = in, in
	err = processes.start(cmd)
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	s := &session{t: t, stdin: stdin, out: bufio.NewReader(out)}
	s.close = sync.OnceFunc(func() {
		stdin.Close()
		cancel()
		processes.wait(cmd)
		out.Close()
	})
	t.Cleanup(s.close)
	return s
}

// do sends a statement and answers with what comes back.
func (s *session) do(statement string) string {
	s.t.Helper()
	s.count++
	marker := fmt.Sprintf("answered-%d", s.count)
	if _, err := fmt.Fprintf(s.stdin, "%s\n\\echo %s\n", statement, marker); err != nil {
		s.t.Fatalf("psql: %s: %v", statement, err)
	}
	var said strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if strings.TrimSpace(line) == marker {
			return strings.TrimSpace(said.String())
		}
		said.WriteString(line)
		if err != nil {
			s.t.Fatalf("psql: %s: %v: %s", statement, err, said.String())
		}
	}
}

// TestPostgres moves a PostgreSQL there and back under pgbench, with a transaction open all the way.
func TestPostgres(t *testing.T) {
	tr := newTrip(t)
	rootfs, server := PostgresRootfs(t)
	pod := Pod{
		Name: tr.PodName("postgres"), Rootfs: rootfs, Number: 52, Flags: []string{"--user", itoa(postgresUser)},
		Args: []string{server, "-D", "/data"},
	}
	tr.alpha.RunPod(t, pod)
	psql := filepath.Join(newestPostgres(t), "psql")
	WaitFor(t, time.Minute, "PostgreSQL to take connections", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
		defer cancel()
		cmd := enter(ctx, tr.client, psql, "-X", "-c", "select 1")
		cmd.Env = database(pod)
		return execute(ctx, cmd).Err == nil
	})
	pgbench(t, tr.client, pod, "-i", "-q", "-s", "2").wait(t)

	open := newSession(t, tr.client, pod)
	open.do("create table moved (n int); begin; insert into moved select generate_series(1, 1000); declare c cursor for select n from moved order by n;")
	if got := open.do("fetch 3 from c;"); got != "1\n2\n3" {
		t.Fatalf("the cursor says %q", got)
	}
	backend := open.do("select pg_backend_pid();")
	load := pgbench(t, tr.client, pod, "-n", "-c", "4", "-j", "2", "-T", "15", "-P", "1")

	time.Sleep(2 * time.Second) // let it get going
	tr.alpha.Migrate(t, pod.Name, tr.beta)
	if got := open.do("fetch 2 from c;"); got != "4\n5" {
		t.Errorf("the cursor says %q after the move", got)
	}
	time.Sleep(2 * time.Second)
	tr.beta.Migrate(t, pod.Name, tr.alpha)

	said := load.wait(t)
	if !strings.Contains(said, "number of failed transactions: 0 (0.000%)") || strings.Contains(said, "number of transactions actually processed: 0\n") {
		t.Errorf("pgbench says:%s", lines(said))
	}
	if got := open.do("select pg_backend_pid();"); got != backend {
		t.Errorf("the session's process is %s, was %s", got, backend)
	}
	after := newSession(t, tr.client, pod)
	if got := after.do("select count(*) from moved;"); got != "0" {
		t.Errorf("another session sees %s rows before the commit", got)
	}
	open.do("commit;")
	if got := after.do("select count(*), sum(n) from moved;"); got != "1000|500500" {
		t.Errorf("after the commit the table has %s", got)
	}
	// pgbench adds the same amount to three tables in every transaction.
	sums := after.do("select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), (select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers);")
	if sums != "t|t" {
		t.Errorf("pgbench's tables don't agree: %s", sums)
	}
	open.close()
	after.close()
	tr.alpha.Zap(t, "pod", "rm", "--force", pod.Name)
	tr.wantNothingLeft(t, tr.alpha)
	tr.wantNothingLeft(t, tr.beta)
}

// running is a command whose end is waited for elsewhere.
type running struct {
	name string
	done chan Result
}

func pgbench(t *testing.T, from NetNS, p Pod, args ...string) *running {
	t.Helper()
	path := filepath.Join(newestPostgres(t), "pgbench")
	if _, err := os.Stat(path); err != nil {
		var lookErr error
		if path, lookErr = exec.LookPath("pgbench"); lookErr != nil {
			t.Fatal(lookErr)
		}
	}
	r := &running{name: "pgbench", done: make(chan Result, 1)}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		cmd := enter(ctx, from, append([]string{path}, args...)...)
		cmd.Env = database(p)
		r.done <- execute(ctx, cmd)
	}()
	return r
}

func (r *running) wait(t *testing.T) string {
	t.Helper()
	result := <-r.done
	if result.Err != nil {
		t.Fatalf("%s: %v", r.name, result)
	}
	return result.Stdout + result.Stderr
}
