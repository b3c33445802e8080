package runtime

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// errNoConsole is what a terminal without a taker ends in.
var errNoConsole = errors.New("a terminal needs --console-socket or a caller that takes it (config.json: process.terminal)")

// giveConsole hands the master of a terminal to the one who wants it.
func giveConsole(master *os.File, take func(*os.File) error, socket string) error {
	if master == nil {
		return errors.New("receive console: no descriptor came")
	}
	if take != nil {
		return take(master)
	}
	defer master.Close()
	if socket == "" {
		return fmt.Errorf("give console: %w", errNoConsole)
	}
	if err := sendFile(socket, master); err != nil {
		return fmt.Errorf("send console: %w", err)
	}
	return nil
}

// sendPidfd sends a descriptor of a process to a unix socket, if there is one.
func sendPidfd(socket string, pid int) error {
	if socket == "" {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	if err := sendFile(socket, f); err != nil {
		return fmt.Errorf("send pidfd: %w", err)
	}
	return nil
}

// sendFile sends a descriptor and its name to the listener of a unix socket.
func sendFile(socket string, f *os.File) error {
	conn, err := net.DialTimeout("unix", socket, 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, _, err = conn.(*net.UnixConn).WriteMsgUnix([]byte(f.Name()), unix.UnixRights(int(f.Fd())), nil)
	return err
}
