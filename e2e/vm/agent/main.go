package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/zap-migrate/zap/e2e/vm/remote"
)

// port is where guests listen for commands.
const port = "77"

func main() {
	var err error
	switch {
	case os.Getpid() == 1:
		err = boot()
	case len(os.Args) == 2 && os.Args[1] == "serve":
		err = serve()
	case len(os.Args) > 4 && os.Args[1] == "exec" && os.Args[3] == "--":
		var code int
		if code, err = run(os.Args[2], os.Args[4:]); err == nil {
			os.Exit(code)
		}
	default:
		err = fmt.Errorf("usage: agent exec ADDR -- COMMAND [ARG...]")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(125)
	}
}

// serve runs commands, and tells the console when it can.
func serve() error {
	l, err := net.Listen("tcp4", ":"+port)
	if err != nil {
		return err
	}
	say("ready")
	s := &remote.Server{Env: []string{"PATH=" + path, "HOME=/root", "LC_ALL=C.UTF-8", "TERM=dumb"}}
	return s.Serve(l)
}

// run is the client: a command on the machine at addr.
func run(addr string, args []string) (int, error) {
	conn, err := net.DialTimeout("tcp4", net.JoinHostPort(addr, port), 10*time.Second)
	for end := time.Now().Add(5 * time.Second); errors.Is(err, syscall.EHOSTUNREACH) && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		conn, err = net.DialTimeout("tcp4", net.JoinHostPort(addr, port), 10*time.Second) // an old neighbour entry of a machine that was off
	}
	if err != nil {
		return 0, err
	}
	r := remote.Request{Args: args}
	for _, e := range os.Environ() {
		if strings.HasPrefix(e, "ZAP_") {
			r.Env = append(r.Env, e)
		}
	}
	caught := make(chan os.Signal, 4)
	signal.Notify(caught, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGCONT)
	signals := make(chan syscall.Signal)
	go func() {
		for s := range caught {
			signals <- s.(syscall.Signal)
		}
	}()
	exit, err := remote.Run(context.Background(), conn, r, remote.Streams{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Signals: signals})
	if err != nil {
		return 0, err
	}
	if exit.Error != "" {
		fmt.Fprintln(os.Stderr, "agent:", exit.Error)
	}
	return exit.Code, nil
}
