package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	minKernelBuffer = 4 << 20
	maxKernelBuffer = 64 << 20
	releaseTime     = 5 * time.Millisecond  // so long at most Release chases what still comes before it opens the gate
	lingerTime      = 50 * time.Millisecond // after the gate opened, for a frame that was being turned aside on another CPU
	lingerStep      = 2 * time.Millisecond
)

// Holder keeps the frames that a closed gate turns aside, in order, per direction.
type Holder struct {
	n     *Network
	limit int64

	mu      sync.Mutex
	in, out *tap
	bytes   int64 // held in both directions
	dropped int
	done    bool
	stop    *os.File // closed: the readers end
	readers sync.WaitGroup
}

// tap is one direction: the socket that sees the frames and the one that sends them on.
type tap struct {
	from   *packetSocket
	to     *packetSocket
	marker func(frame []byte)
	frames [][]byte
	buffer []byte
}

// Hold closes the gate if it is open and begins to keep what it turns aside: frames towards the pod
// and frames from it, up to limitBytes together. What comes beyond that is dropped and counted.
func (n *Network) Hold(ctx context.Context, limitBytes int64) (*Holder, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n.lingers.Wait() // for the Holder of a gate before this one
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.findLinks(); err != nil {
		return nil, err
	}
	if n.hostLink == 0 {
		return nil, fmt.Errorf("hold frames: the host's end is not known")
	}
	h := &Holder{n: n, limit: limitBytes, in: &tap{marker: markSource}, out: &tap{marker: func([]byte) {}}}
	if err := h.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("hold frames: %w", err), h.close())
	}
	if !n.gated {
		if err := n.gate(); err != nil {
			return nil, errors.Join(fmt.Errorf("hold frames: %w", hookError(err)), h.close())
		}
	}
	if err := h.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("hold frames: %w", err), h.close())
	}
	return h, nil
}

// open makes the sockets: two that listen to lo, one that sends from the host's end towards the pod
// and one that sends from the pod's.
func (h *Holder) open() error {
	size := int(min(max(h.limit, minKernelBuffer), maxKernelBuffer))
	err := inside(h.n.ns, func() (err error) {
		if h.in.from, err = newTapSocket(markArrived, size); err != nil {
			return err
		}
		if h.out.from, err = newTapSocket(markLeaving, size); err != nil {
			return err
		}
		if h.out.to, err = newPacketSocket(h.n.podLink, 0); err != nil {
			return err
		}
		return os.NewSyscallError("setsockopt SO_MARK", unix.SetsockoptInt(h.out.to.fd, unix.SOL_SOCKET, unix.SO_MARK, int(markInject)))
	})
	if err != nil {
		return err
	}
	err = inside(h.n.home, func() (err error) {
		h.in.to, err = newPacketSocket(h.n.hostLink, 0)
		return err
	})
	if err != nil {
		return err
	}
	return errors.Join(
		h.in.to.setBuffer(unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer),
		h.out.to.setBuffer(unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer))
}

func newTapSocket(mark uint32, size int) (*packetSocket, error) {
	s, err := newPacketSocket(loopbackIndex, 0)
	if err != nil {
		return nil, err
	}
	// The filter before the protocol: nothing else gets in.
	err = s.attachFilter(mark)
	if err == nil {
		err = s.setBuffer(unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, size)
	}
	if err == nil {
		err = s.bind(unix.ETH_P_ALL)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// start runs a reader per direction, which keeps the kernel's buffers empty until Release or
// Discard.
func (h *Holder) start() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	h.stop = w
	h.readers.Go(func() {
		defer r.Close()
		fds := []unix.PollFd{{Fd: int32(h.in.from.fd), Events: unix.POLLIN}, {Fd: int32(h.out.from.fd), Events: unix.POLLIN}, {Fd: int32(r.Fd())}}
		for {
			if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			if fds[2].Revents != 0 {
				return
			}
			h.mu.Lock()
			h.drain(h.in)
			h.drain(h.out)
			h.mu.Unlock()
		}
	})
	return nil
}

// halt ends the readers.
func (h *Holder) halt() {
	if h.stop != nil {
		_ = h.stop.Close()
		h.readers.Wait()
		h.stop = nil
	}
}

// drain takes all that the kernel has for one direction. The caller has the mutex.
func (h *Holder) drain(t *tap) {
	if t.buffer == nil {
		t.buffer = make([]byte, virtioHeader+frameMax)
	}
	for {
		size, _, err := unix.Recvfrom(t.from.fd, t.buffer, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EBADF), errors.Is(err, unix.ENETDOWN):
			return
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil, size > len(t.buffer), size < virtioHeader+14, h.bytes+int64(size) > h.limit:
			h.dropped++ // EINVAL: of a kind of segmentation that the header can't express
			continue
		}
		frame := append([]byte(nil), t.buffer[:size]...)
		t.frames = append(t.frames, frame)
		h.bytes += int64(size)
	}
}

// inject sends on what one direction holds and returns how many frames that was.
func (h *Holder) inject(t *tap) int {
	sent := 0
	for _, frame := range t.frames {
		t.marker(frame)
		h.bytes -= int64(len(frame))
		if err := t.to.send(frame); err != nil {
			h.dropped++
			continue
		}
		sent++
	}
	t.frames = nil
	return sent
}

// markSource marks a frame for the gate's rule injectedSource.
func markSource(frame []byte) { frame[virtioHeader+6] |= 1 }

// pump drains and injects both directions: what the pod said first goes out first.
func (h *Holder) pump() int {
	h.drain(h.out)
	h.drain(h.in)
	return h.inject(h.out) + h.inject(h.in)
}

// Release delivers the held frames in order, both ways, opens the gate and delivers what came in
// between. It returns how many frames that were. With an error the gate is closed still; frames
// that could not be sent on count in Dropped. What remains of the gate is removed in the
// background, which Close waits for.
func (h *Holder) Release(ctx context.Context) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	h.halt()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return 0, fmt.Errorf("release held frames: %w", os.ErrClosed)
	}
	frames := h.pump()
	// What came meanwhile is little, and what comes while that is delivered is less: the gate opens
	// at a moment when nothing waits, if there is one.
	for end := time.Now().Add(releaseTime); time.Now().Before(end); {
		sent := h.pump()
		if frames += sent; sent == 0 {
			break
		}
	}
	if err := h.n.openGate(); err != nil {
		return frames, fmt.Errorf("release held frames: %w", err)
	}
	frames += h.pump()
	h.done, h.n.gated = true, false
	h.n.lingers.Go(h.linger)
	return frames, nil
}

// linger picks up a frame whose way through the rules had begun before the gate opened, and removes
// the gate, for which the kernel may take its time.
func (h *Holder) linger() {
	end := time.Now().Add(lingerTime)
	h.n.mu.Lock()
	err := h.n.deleteTable(gateTable)
	h.n.lingerErr = errors.Join(h.n.lingerErr, err)
	h.n.mu.Unlock()
	for {
		h.mu.Lock()
		h.pump()
		if time.Now().After(end) {
			_ = h.close()
			h.mu.Unlock()
			return
		}
		h.mu.Unlock()
		time.Sleep(lingerStep)
	}
}

// Discard drops what is held and returns how many frames that were. The gate stays closed.
func (h *Holder) Discard() int {
	h.halt()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.done {
		return 0
	}
	h.done = true
	h.drain(h.in)
	h.drain(h.out)
	frames := len(h.in.frames) + len(h.out.frames)
	h.in.frames, h.out.frames, h.bytes = nil, nil, 0
	_ = h.close()
	return frames
}

// Held returns how many frames and bytes are held now.
func (h *Holder) Held() (frames int, bytes int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.in.frames) + len(h.out.frames), h.bytes
}

// Dropped returns how many frames were lost: beyond the limit, or refused by the kernel.
func (h *Holder) Dropped() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dropped
}

func (h *Holder) close() error {
	var errs []error
	for _, s := range []*packetSocket{h.in.from, h.in.to, h.out.from, h.out.to} {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	h.in, h.out = &tap{}, &tap{}
	return errors.Join(errs...)
}
