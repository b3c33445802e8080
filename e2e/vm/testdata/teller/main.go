// Command teller answers every line on a TCP connection with the number of the answer on that connection, the kernel's release, and the monotonic
// and the boot clock in nanoseconds, while threads of its own count in memory that they share. It can hold more memory, and write to some pages of
// that in every second, or look at the clock all the time. With the argument "now" it prints the release and the clocks once.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ballast := flag.Int("ballast", 0, "`MiB` of memory to hold")
	dirty := flag.Int("dirty", 0, "`pages` of it to write to in a second")
	watch := flag.Int("clock", 0, "`threads` that look at the clock all the time that nothing else wants a processor")
	numbers := flag.Bool("numbers", false, "have a number in each page of it instead of noise, which does not compress")
	flag.Parse()
	if flag.Arg(0) == "now" {
		fmt.Println(situation())
		return
	}
	for range *watch {
		go watchClock()
	}
	if *ballast > 0 {
		hold(*ballast<<20, *dirty, *numbers)
	}
	memory, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		log.Fatal(err)
	}
	var turns atomic.Int64
	for i := range 4 {
		go func() {
			for range time.Tick(20 * time.Millisecond) {
				memory[(int(turns.Add(1))*4096+i)%len(memory)]++
			}
		}()
	}
	var config net.ListenConfig
	config.SetMultipathTCP(false) // which CRIU doesn't know
	l, err := config.Listen(context.Background(), "tcp", ":7100")
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go tell(conn)
	}
}

// hold fills memory, and then changes it from a thread of its own.
func hold(size, dirty int, numbers bool) {
	const page = 4096
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		log.Fatal(err)
	}
	noise := rand.NewChaCha8([32]byte{1})
	if !numbers {
		_, _ = noise.Read(memory) // it never fails
	}
	for at := 0; at < size; at += page {
		binary.LittleEndian.PutUint64(memory[at:], uint64(at)+1)
	}
	if dirty == 0 {
		return
	}
	go func() {
		const step = 50 * time.Millisecond
		last, at := time.Now(), 0
		for range time.Tick(step) {
			now := time.Now()
			for range int(float64(dirty) * min(now.Sub(last), time.Second).Seconds()) {
				at = (at + page) % size
				memory[at]++
			}
			last = now
		}
	}()
}

// watchClock looks at the clock by way of the vDSO, and ends the program when it goes back.
func watchClock() {
	runtime.LockOSThread()
	if err := unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 19); err != nil {
		log.Fatal(err)
	}
	for last := time.Now(); ; {
		now := time.Now()
		if now.Before(last) {
			log.Fatalf("the clock went back, from %v to %v", last, now)
		}
		last = now
	}
}

func tell(conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	for n := 1; lines.Scan(); n++ {
		fmt.Fprintln(conn, n, situation())
	}
}

// situation is the kernel's release and the clocks.
func situation() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		log.Fatal(err)
	}
	return fmt.Sprint(unix.ByteSliceToString(name.Release[:]), " ", clock(unix.CLOCK_MONOTONIC), " ", clock(unix.CLOCK_BOOTTIME))
}

func clock(id int32) int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(id, &now); err != nil {
		log.Fatal(err)
	}
	return now.Nano()
}
