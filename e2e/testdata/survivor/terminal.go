package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// serveTerminal gives each connection to port 7001 a shell on a pseudo terminal, both ends of which are in the pod.
func serveTerminal([]string) int {
	l, err := net.Listen("tcp", ":7001")
	if err != nil {
		fmt.Println("survivor:", err)
		return 1
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			return 1
		}
		go func() {
			defer conn.Close()
			if err := shell(conn); err != nil {
				fmt.Fprintf(conn, "survivor: %v\n", err)
			}
		}()
	}
}

func shell(conn net.Conn) error {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open /dev/ptmx", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return os.NewSyscallError("unlock pseudo terminal", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return os.NewSyscallError("number pseudo terminal", err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 30, Col: 90}); err != nil {
		return os.NewSyscallError("size pseudo terminal", err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	master := os.NewFile(uintptr(fd), "/dev/ptmx")
	defer master.Close()
	cmd := exec.Command("/bin/bash", "--norc", "-i")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.Env = append(os.Environ(), "TERM=xterm", "PS1=ready$ ", "HOME=/root")
	cmd.Dir = "/root"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	slave.Close()
	if err != nil {
		return err
	}
	go io.Copy(master, conn)
	io.Copy(conn, master)
	return cmd.Wait()
}
