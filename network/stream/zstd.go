package stream

import (
	"errors"
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Compression says how the data frames of a connection are compressed.
type Compression uint8

const (
	// CompressAuto compresses while measurements say that the link, not the processor, is the limit and the data gets smaller.
	CompressAuto Compression = iota
	// CompressNever sends everything as it is.
	CompressNever
	// CompressAlways compresses whatever gets smaller by it.
	CompressAlways
)

const (
	packMin    = 1 << 10  // smaller payloads are never compressed
	packSample = 64 << 10 // how much of a frame is tried
	packEvery  = 16 << 20 // a trial is made once in so many bytes,
	packSoon   = 4 << 20  // the first ones after so many: a busy moment may have spoiled them,
	packTrials = 4        // that is how many are
	packFirst  = 1 << 20  // the link's rate is first taken over so many bytes, then over four times as many, as sockets hold some of them
	packWindow = 16 << 20 // and then over so many
	packProbe  = 4 << 20  // while compressing, so much is sent raw to measure the link again,
	packAgain  = 64 << 20 // at first after so many bytes, then after twice as many each time that it changes nothing,
	packRarely = 1 << 30  // up to this
	packWorth  = 0.85     // the ratio above which compression never pays
	// packClear is the ratio below which compression is begun with before the link's rate is known: the encoder is faster on such data than TLS.
	packClear = 1.0 / 16
	// packFastest is a rate in bytes per second that no zstd encoder here reaches: a faster link needs no trial.
	packFastest = 1 << 30
)

// packer decides about compression and does it. It is guarded by the connection's write lock.
//
// It knows three numbers: the rate at which the connection takes bytes (TLS and waiting included), measured while it sends raw; the rate
// of the encoder and the ratio it reaches, measured on samples. A frame is compressed when encoding it and sending the rest takes less
// time than sending it as it is. Before the first of the three is known, it is when hardly anything is left of it.
type packer struct {
	mode Compression
	enc  *zstd.Encoder
	out  []byte

	link  float64 // bytes per second the connection takes; 0 not known yet
	speed float64 // bytes per second the encoder takes
	ratio float64 // its output by its input
	pays  bool

	trials  int           // samples so far
	untried int64         // bytes since the last
	rates   int           // how often the link's rate was taken, at most 8
	sent    int64         // bytes sent raw since it was last,
	took    time.Duration // and their time
	packed  int64         // bytes compressed since the last probe
	again   int64         // bytes to compress before the next
	probe   int64         // bytes still to send raw for it
}

// linkLimit tells the packer of a rate limit, which is known before it is measured.
func (k *packer) linkLimit(l *Limiter) {
	if l != nil {
		k.link = float64(l.Rate())
		k.untried = packEvery
	}
}

// pack returns p compressed and true, or false if p should be sent as it is. The result is valid until the next call.
func (k *packer) pack(p []byte) ([]byte, bool) {
	if k.mode == CompressNever || len(p) < packMin || !k.ready() {
		return nil, false
	}
	if k.mode == CompressAuto && !k.worth(p) {
		return nil, false
	}
	began := time.Now()
	k.out = k.enc.EncodeAll(p, k.out[:0])
	k.learn(len(p), len(k.out), time.Since(began))
	k.packed += int64(len(p))
	return k.out, len(k.out) < len(p)
}

// ready makes the encoder on first use.
func (k *packer) ready() bool {
	if k.enc != nil {
		return true
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(MaxPayload), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	k.enc = enc
	return err == nil
}

// worth says whether p should be compressed, from a sample of it if the last one is long ago.
func (k *packer) worth(p []byte) bool {
	if k.link > packFastest {
		return false
	}
	if k.pays && k.packed >= max(k.again, packAgain) {
		k.packed, k.probe, k.sent, k.took = 0, packProbe, 0, 0
	}
	if k.probe > 0 {
		k.probe -= int64(len(p))
		return false
	}
	if k.link == 0 {
		if !k.pays && len(p) >= slice { // smaller ones do not tell the link's rate, so they would be tried for ever
			k.try(p)
		}
		return k.pays
	}
	k.untried += int64(len(p))
	if k.trials == 0 || k.untried >= packEvery || k.trials < packTrials && k.untried >= packSoon {
		k.untried = 0
		if k.trials++; k.trials == 1 {
			k.try(p) // the first time takes several times as long
		}
		k.try(p)
	}
	return k.pays
}

// try encodes a sample of p.
func (k *packer) try(p []byte) {
	sample := p[len(p)/2:]
	sample = sample[:min(len(sample), packSample)]
	began := time.Now()
	k.out = k.enc.EncodeAll(sample, k.out[:0])
	k.ratio = float64(len(k.out)) / float64(len(sample))
	k.speed = float64(len(sample)) / max(time.Since(began).Seconds(), 1e-9)
	k.decide()
}

// learn takes the numbers of a frame that was compressed.
func (k *packer) learn(raw, packed int, took time.Duration) {
	const weight = 0.25
	k.ratio += weight * (float64(packed)/float64(raw) - k.ratio)
	k.speed += weight * (float64(raw)/max(took.Seconds(), 1e-9) - k.speed)
	k.decide()
}

// decide compares a byte's time both ways. The kernel sends what it has buffered while the encoder runs, so the two overlap: the slower
// of them counts, and some of the faster.
func (k *packer) decide() {
	if k.link == 0 {
		k.pays = k.ratio < packClear
		return
	}
	raw := 1 / k.link
	encode, send := 1/k.speed, k.ratio/k.link
	k.pays = k.ratio < packWorth && max(encode, send)+0.25*min(encode, send) < raw
}

// wrote reports how long the connection took for n bytes of a frame.
func (k *packer) wrote(n int, took time.Duration, packed bool) {
	if packed || n < slice {
		return
	}
	k.sent += int64(n)
	k.took += took
	switch {
	case !k.pays && k.sent < min(int64(packFirst)<<(2*k.rates), packWindow), k.pays && k.sent < packProbe:
		return
	}
	k.rates = min(k.rates+1, 8)
	rate := float64(k.sent) / max(k.took.Seconds(), 1e-9)
	k.sent, k.took = 0, 0
	if k.link != 0 && !k.pays {
		rate = 2 / (1/k.link + 1/rate) // the mean of the times
	}
	k.link = rate
	if k.pays {
		k.decide()
		if k.again = min(2*max(k.again, packAgain), packRarely); !k.pays {
			k.again = packAgain
		}
	}
}

// unpacker is the other side of packer. One goroutine uses it.
type unpacker struct{ dec *zstd.Decoder }

// unpack appends the content of the zstd frame src to dst. It refuses more than MaxPayload bytes before it allocates them.
func (u *unpacker) unpack(dst, src []byte) ([]byte, error) {
	if u.dec == nil {
		dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxPayload), zstd.WithDecoderMaxWindow(MaxPayload),
			zstd.WithDecoderLowmem(true))
		if err != nil {
			return dst, fmt.Errorf("start zstd: %w", err)
		}
		u.dec = dec
	}
	out, err := u.dec.DecodeAll(src, dst)
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) || len(out) > MaxPayload {
		return dst, fmt.Errorf("unpack frame: %w", ErrTooLarge)
	}
	if err != nil {
		return dst, fmt.Errorf("unpack frame: %w", err)
	}
	return out, nil
}
