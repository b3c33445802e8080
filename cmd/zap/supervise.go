package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/pod/migrate"
	"github.com/zap-migrate/zap/runtime"
)

// Descriptors of the supervisor that `zap pod run` starts.
const (
	jobDescriptor   = 3 // the job, JSON
	readyDescriptor = 4 // the answer: podRuns, or the error
)

// podRuns is a supervisor's word that the pod runs.
const podRuns = "runs\n"

func newSuperviseCommand(g *globals) *cobra.Command {
	var arrival bool
	cmd := &cobra.Command{
		Use: "supervise", Hidden: true, Args: cobra.NoArgs,
		Short: "Own one pod",
		RunE: func(*cobra.Command, []string) error {
			signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE)
			rt := runtime.New(g.root, g.log)
			if arrival {
				return superviseArrival(g, rt)
			}
			return superviseJob(g, rt)
		},
	}
	cmd.Flags().BoolVar(&arrival, "arrival", false, "the pod moves in")
	return cmd
}

func superviseJob(g *globals, rt *runtime.Runtime) error {
	in, out := os.NewFile(jobDescriptor, "job"), os.NewFile(readyDescriptor, "ready")
	unix.CloseOnExec(jobDescriptor)
	unix.CloseOnExec(readyDescriptor)
	var job pod.Job
	if err := json.NewDecoder(in).Decode(&job); err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	in.Close()
	return pod.Supervise(context.Background(), rt, &job, g.log, func(err error) {
		if err != nil {
			fmt.Fprint(out, err.Error())
		} else {
			fmt.Fprint(out, podRuns)
		}
		out.Close()
	})
}

func superviseArrival(g *globals, rt *runtime.Runtime) error {
	file := os.NewFile(migrate.ArrivalConnDescriptor, "serve")
	unix.CloseOnExec(migrate.ArrivalConnDescriptor)
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		return err
	}
	defer conn.Close()
	serve, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("descriptor %d is a %T", migrate.ArrivalConnDescriptor, conn)
	}
	images, trees, err := migrate.ReceiveArrivalFiles(serve)
	if errors.Is(err, io.EOF) {
		return nil // there was nothing to do
	}
	if err != nil {
		return fmt.Errorf("read job: %w", err)
	}
	job, lines, err := readArrival(conn)
	if err != nil {
		return err
	}
	if len(trees) != len(job.Mounts.Trees) {
		return fmt.Errorf("read job: %d tmpfs trees came for %d mounts", len(trees), len(job.Mounts.Trees))
	}
	journal := journalOf(filepath.Join(g.root, job.ID))
	return pod.Receive(context.Background(), rt, job, journal, lines, images, trees, g.log)
}

// readArrival reads what an arriving pod's supervisor is started with. Words of `zap serve` may follow at once.
func readArrival(conn net.Conn) (*pod.ArrivalJob, *pod.ArrivalConn, error) {
	serve := &pod.ArrivalConn{Conn: conn, Lines: bufio.NewReaderSize(conn, 64<<10)}
	line, err := serve.Lines.ReadBytes('\n')
	var job pod.ArrivalJob
	if err == nil {
		err = json.Unmarshal(line, &job)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read job: %w", err)
	}
	return &job, serve, nil
}

// journalOf is the journal in a pod's directory, to which `zap serve` writes too.
type journalOf string

// Append enters a phase.
func (dir journalOf) Append(phase string) error {
	j, err := migrate.OpenJournal(string(dir))
	if err != nil {
		return err
	}
	return errors.Join(j.Append(phase), j.Close())
}

// Remove ends the journal.
func (dir journalOf) Remove() error {
	j, err := migrate.OpenJournal(string(dir))
	if err != nil {
		return err
	}
	return j.Remove()
}
