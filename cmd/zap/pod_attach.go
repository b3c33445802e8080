package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/zap-migrate/zap/pod"
	"github.com/zap-migrate/zap/runtime"
)

// detachKey is Ctrl-] on a terminal: the client goes, the pod stays.
const detachKey = 0x1d

func newPodAttachCommand(g *globals) *cobra.Command {
	var noStdin bool
	cmd := &cobra.Command{
		Use:   "attach POD",
		Short: "Connect to a pod's standard streams or terminal (Ctrl-] leaves a terminal)",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := pod.Load(runtime.New(g.root, g.log), args[0])
			if err != nil {
				return err
			}
			return attachPod(cmd.Context(), p.Dir(), pod.Request{Stdin: !noStdin})
		},
	}
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "only watch")
	return cmd
}

// attachPod connects this process's streams to the pod in dir until the pod
// ends, and returns its exit code as an *exitError.
func attachPod(ctx context.Context, dir string, request pod.Request) error {
	request.Op = pod.OpAttach
	terminal := request.Stdin && term.IsTerminal(int(os.Stdin.Fd()))
	if columns, rows, err := term.GetSize(int(os.Stdin.Fd())); err == nil && terminal {
		request.Rows, request.Columns = uint16(rows), uint16(columns)
	}
	answer, reader, conn, err := pod.Dial(ctx, dir, request)
	if err != nil {
		return endedBefore(dir, err)
	}
	defer conn.Close()
	if terminal && answer.TTY {
		old, err := term.MakeRaw(int(os.Stdin.Fd()))
		if err != nil {
			return fmt.Errorf("set terminal: %w", err)
		}
		defer term.Restore(int(os.Stdin.Fd()), old)
		resized := make(chan os.Signal, 1)
		signal.Notify(resized, unix.SIGWINCH)
		defer signal.Stop(resized)
		go followSize(conn, resized)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if request.Stdin {
		go sendInput(conn, terminal && answer.TTY)
	}
	return showOutput(ctx, reader)
}

// endedBefore turns the lack of a supervisor into the exit code of a pod that
// ended before the client came.
func endedBefore(dir string, err error) error {
	if !errors.Is(err, pod.ErrNoSupervisor) {
		return err
	}
	if code, ok := pod.ReadExit(dir); ok {
		if lerr := pod.ReadLog(context.Background(), pod.LogPath(dir), os.Stdout, os.Stderr, pod.LogOptions{Tail: -1}); lerr != nil {
			return lerr
		}
		return exitCode(code)
	}
	return err
}

func exitCode(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}

func followSize(conn net.Conn, resized <-chan os.Signal) {
	for range resized {
		columns, rows, err := term.GetSize(int(os.Stdin.Fd()))
		if err != nil {
			return
		}
		data := []byte{byte(rows >> 8), byte(rows), byte(columns >> 8), byte(columns)}
		if pod.WriteFrame(conn, pod.FrameResize, data) != nil {
			return
		}
	}
}

func sendInput(conn net.Conn, keys bool) {
	buf := make([]byte, 4096)
	for {
		n, err := os.Stdin.Read(buf)
		if keys && n == 1 && buf[0] == detachKey {
			conn.Close()
			return
		}
		if n > 0 && pod.WriteFrame(conn, pod.FrameStdin, buf[:n]) != nil {
			return
		}
		if err != nil {
			_ = pod.WriteFrame(conn, pod.FrameStdin, nil)
			return
		}
	}
}

func showOutput(ctx context.Context, reader *bufio.Reader) error {
	for {
		kind, data, err := pod.ReadFrame(reader)
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, io.EOF):
			return errors.New("the pod's supervisor went away")
		case err != nil:
			return err
		}
		switch kind {
		case pod.FrameStdout:
			_, err = os.Stdout.Write(data)
		case pod.FrameStderr:
			_, err = os.Stderr.Write(data)
		case pod.FrameMoved:
			fmt.Fprintf(os.Stderr, "\r\nthe pod has moved to %s\r\n", data)
			return nil
		case pod.FrameExit:
			if len(data) == 4 {
				return exitCode(int(data[0])<<24 | int(data[1])<<16 | int(data[2])<<8 | int(data[3]))
			}
		}
		if err != nil {
			return err
		}
	}
}
