package pages_test

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/zap-migrate/zap/network/stream"
	"github.com/zap-migrate/zap/pod/pages"
	"golang.org/x/sys/unix"
)

const (
	benchSize   = 512 << 20
	benchRounds = 7
)

// BenchmarkPages prints the throughput of a TLS connection with zeros in and everything dropped at the other end, that of the page
// channel between a stand-in for CRIU, which splices its memory as CRIU does, and images on tmpfs, and the ratio of the two and of the
// processor time they take: medians of alternating runs.
func BenchmarkPages(b *testing.B) {
	benchMemory(b)
	for b.Loop() {
		var base, channel, ratio, cpu []float64
		for range benchRounds {
			c0 := cpuTime(b)
			t0 := timeZeros(b)
			c1 := cpuTime(b)
			t1 := timeChannel(b)
			c2 := cpuTime(b)
			base, channel = append(base, benchSize/1e6/t0.Seconds()), append(channel, benchSize/1e6/t1.Seconds())
			ratio = append(ratio, t0.Seconds()/t1.Seconds())
			cpu = append(cpu, (c1-c0).Seconds()/(c2-c1).Seconds())
		}
		b.ReportMetric(median(base), "tls-MB/s")
		b.ReportMetric(median(channel), "pages-MB/s")
		b.ReportMetric(median(ratio), "ratio")
		b.ReportMetric(median(cpu), "cpu-ratio")
		b.ReportMetric(0, "ns/op")
	}
}

func median(l []float64) float64 {
	slices.Sort(l)
	return l[len(l)/2]
}

// cpuTime is what this process has used of the processors. On a machine that does other things it says more than the clock.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// timeZeros sends zeros through TLS as a program without any care would, and drops them.
func timeZeros(b *testing.B) time.Duration {
	x, y := tcpPair(b)
	return timeZerosOver(b, x, y)
}

func timeZerosOver(b *testing.B, x, y net.Conn) time.Duration {
	from, to := tlsOver(b, x, y)
	zeros := make([]byte, 1<<20)
	began := time.Now()
	go func() {
		for n := 0; n < benchSize; n += len(zeros) {
			if _, err := from.Write(zeros); err != nil {
				b.Error(err)
				return
			}
		}
		from.Close()
	}()
	sink := make([]byte, 1<<20)
	for {
		if _, err := to.Read(sink); err == io.EOF {
			return time.Since(began)
		} else if err != nil {
			b.Fatal(err)
		}
	}
}

// timeChannel sends memory through the page channel into images on tmpfs.
func timeChannel(b *testing.B) time.Duration {
	source, target := connPair(b)
	dir, err := os.Open(smallTmpfs(b, "4g"))
	if err != nil {
		b.Fatal(err)
	}
	defer dir.Close()
	memory := benchMemory(b)
	sender, err := pages.NewSender()
	if err != nil {
		b.Fatal(err)
	}
	defer sender.Close()
	began := time.Now()
	go splice(b, sender.File(), memory)
	failed := make(chan error, 1)
	go func() { _, err := pages.Receive(context.Background(), target, dir, pages.Limits{}); failed <- err }()
	stats, err := sender.Run(context.Background(), source)
	if err != nil {
		b.Fatal(err)
	}
	if err := <-failed; err != nil {
		b.Fatal(err)
	}
	took := time.Since(began)
	if stats.Bytes != benchSize {
		b.Fatalf("sent %+v", stats)
	}
	return took
}

var benchMemoryOnce []byte

// benchMemory is memory that does not compress and has no zero pages.
func benchMemory(b *testing.B) []byte {
	if benchMemoryOnce != nil {
		return benchMemoryOnce
	}
	m, err := syscall.Mmap(-1, 0, benchSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; i < len(m); i += 8 {
		binary.LittleEndian.PutUint64(m[i:], uint64(i+8)*0x9e3779b97f4a7c15)
	}
	benchMemoryOnce = m
	return m
}

// splice does what CRIU does: memory is spliced into a pipe by reference, then from the pipe into the socket.
func splice(b *testing.B, f *os.File, memory []byte) {
	defer f.Close()
	sk := int(f.Fd())
	var p [2]int
	if err := unix.Pipe(p[:]); err != nil {
		b.Error(err)
		return
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	size, err := unix.FcntlInt(uintptr(p[0]), unix.F_SETPIPE_SZ, 1<<20)
	if err != nil {
		b.Error(err)
		return
	}
	const destination = 7<<8 | 1
	answer := make([]byte, 4)
	must := func(err error) {
		if err != nil {
			b.Error(err)
		}
	}
	must(unix.Send(sk, header(4, 0, 0, destination), 0))
	_, err = unix.Read(sk, answer[:1])
	must(err)
	for at := 0; at < len(memory) && err == nil; at += size {
		chunk := memory[at:min(at+size, len(memory))]
		_, err = unix.Vmsplice(p[1], []unix.Iovec{{Base: &chunk[0], Len: uint64(len(chunk))}}, 0)
		must(err)
		must(unix.Send(sk, header(6|4<<16, uint64(len(chunk)/4096), uint64(at), destination), 0))
		for left := len(chunk); left > 0 && err == nil; {
			var n int64
			n, err = unix.Splice(p[0], nil, sk, nil, left, unix.SPLICE_F_MOVE)
			must(err)
			left -= int(n)
		}
	}
	must(unix.Send(sk, header(0x1024, 0, 0, 0), 0))
	_, err = unix.Read(sk, answer)
	must(err)
}

// header is a command of CRIU's page server protocol.
func header(command uint32, count, address, destination uint64) []byte {
	b := make([]byte, 32)
	binary.LittleEndian.PutUint32(b, command)
	binary.LittleEndian.PutUint64(b[8:], count)
	binary.LittleEndian.PutUint64(b[16:], address)
	binary.LittleEndian.PutUint64(b[24:], destination)
	return b
}

// BenchmarkTLS shows what Buffered is worth under TLS alone.
func BenchmarkTLS(b *testing.B) {
	for b.Loop() {
		x, y := tcpPair(b)
		plain := timeZerosOver(b, x, y)
		x, y = tcpPair(b)
		ahead := timeZerosOver(b, stream.Buffered(x), stream.Buffered(y))
		b.ReportMetric(benchSize/1e6/plain.Seconds(), "plain-MB/s")
		b.ReportMetric(benchSize/1e6/ahead.Seconds(), "readahead-MB/s")
	}
}
