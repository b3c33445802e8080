// Command survivor holds one of everything that a process can hold (timers, queues, locks, deleted files, children and
// what is on its way between them) and says on request whether all of it still works and is what it was.
//
// It listens on port 7000. "check" is answered with "ok" or with a line for each thing that broke and an empty line after
// the last. Every check leaves things as it found them, so it can be asked again and again, before and after any move.
//
// With the argument "terminal" it serves a shell on a pseudo terminal on port 7001 instead, as an sshd does.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
)

// thing is one of what survivor holds: setup makes it and answers with how to check it.
type thing struct {
	name  string
	setup func() (check func() error, err error)
}

// roles are what survivor's children do; the name is the first argument.
var roles = map[string]func(args []string) int{
	"terminal": serveTerminal,
	"answer":   answer,
	"orphan":   makeOrphan,
	"exit7":    func([]string) int { return 7 },
	"trylock":  tryLocks,
	"produce":  produce,
	"count":    countUp,
}

func main() {
	if len(os.Args) > 1 {
		role, ok := roles[os.Args[1]]
		if !ok {
			fmt.Fprintf(os.Stderr, "survivor: no role %q\n", os.Args[1])
			os.Exit(2)
		}
		os.Exit(role(os.Args[2:]))
	}
	checks := map[string]func() error{}
	var order []string
	for _, t := range things() {
		check, err := t.setup()
		if err == nil {
			err = check()
		}
		if err != nil {
			fmt.Printf("survivor: set up %s: %v\n", t.name, err)
			os.Exit(1)
		}
		checks[t.name] = check
		order = append(order, t.name)
	}
	l, err := net.Listen("tcp", ":7000")
	if err != nil {
		fmt.Println("survivor:", err)
		os.Exit(1)
	}
	fmt.Printf("survivor: ready with %d things\n", len(order))
	requests := make(chan net.Conn)
	go accept(l, requests)
	for conn := range requests {
		go func() {
			defer conn.Close()
			for s := bufio.NewScanner(conn); s.Scan(); {
				reply(conn, checks, order)
			}
		}()
	}
}

func accept(l net.Listener, to chan<- net.Conn) {
	for {
		conn, err := l.Accept()
		if err != nil {
			fmt.Println("survivor: accept:", err)
			os.Exit(1)
		}
		to <- conn
	}
}

func reply(conn net.Conn, checks map[string]func() error, order []string) {
	var broken []string
	for _, name := range order {
		if err := checks[name](); err != nil {
			broken = append(broken, name+": "+strings.ReplaceAll(err.Error(), "\n", " "))
		}
	}
	if len(broken) == 0 {
		fmt.Println("survivor: checked, all is well")
		fmt.Fprint(conn, "ok\n\n")
		return
	}
	fmt.Println("survivor: checked, broken:", strings.Join(broken, "; "))
	fmt.Fprintf(conn, "%s\n\n", strings.Join(broken, "\n"))
}

func things() []thing {
	return []thing{
		{"process that ignores SIGHUP", ignoresHangup},
		{"orphan in a session of its own", orphan},
		{"zombie", zombie},
		{"threads", threads},
		{"pidfd", pidfd},
		{"identity", identity},
		{"timerfd", timerFD},
		{"interval timer", intervalTimer},
		{"POSIX timer", posixTimer},
		{"inotify", inotify},
		{"epoll", epoll},
		{"eventfd", eventFD},
		{"memfd", memFD},
		{"memory", memory},
		{"/dev/shm", devShm},
		{"SysV shared memory", sysvShm},
		{"SysV semaphores", sysvSem},
		{"SysV messages", sysvMsg},
		{"POSIX queue", posixQueue},
		{"file locks", locks},
		{"deleted small file", deletedFile(10)},
		{"deleted large file", deletedFile(3 << 20)},
		{"directory", directory},
		{"pipe with data", pipe},
		{"fifo with data", fifo},
		{"pipeline", pipeline},
		{"socketpair with data", socketPair},
		{"unix connection with data", unixConnection},
		{"TCP connection with data", tcpConnection},
		{"UDP socket", udpSocket},
	}
}
