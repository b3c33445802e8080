package network

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRepair(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: TCP_REPAIR")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	mode := func() int {
		raw, err := server.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		value := -1
		if err := raw.Control(func(fd uintptr) { value, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR) }); err != nil {
			t.Fatal(err)
		}
		return value
	}
	for _, on := range []bool{true, true, false, false} {
		if err := Repair([]int{os.Getpid()}, on); err != nil {
			t.Fatal(err)
		}
		if got := mode() == unix.TCP_REPAIR_ON; got != on {
			t.Fatalf("repair mode is %v, wanted %v", got, on)
		}
	}
	if _, err := client.Write([]byte("x")); err != nil {
		t.Errorf("the connection did not survive: %v", err)
	}
	if err := Repair([]int{1 << 30}, true); err != nil {
		t.Errorf("a process that is gone: %v", err)
	}
}
