package cgroup

import (
	"fmt"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// legacyBlockIO is the blkio controller of v1: weights are the CFQ scheduler's on old kernels and BFQ's on current ones.
func legacyBlockIO(res *specs.LinuxResources) ([]knot, error) {
	b := res.BlockIO
	if b == nil {
		return nil, nil
	}
	bfq := func(w write, file string) write {
		other := w
		other.file = file
		w.instead = &other
		return w
	}
	knots := add(nil, bfq(write{file: "blkio.weight", value: decimal(b.Weight), field: "blockIO.weight"}, "blkio.bfq.weight"))
	knots = add(knots, write{file: "blkio.leaf_weight", value: decimal(b.LeafWeight), field: "blockIO.leafWeight"})
	for i, d := range b.WeightDevice {
		field := fmt.Sprintf("blockIO.weightDevice[%d]", i)
		w := write{file: "blkio.weight_device", value: ofDevice(d.LinuxBlockIODevice, decimal(d.Weight)), field: field}
		knots = add(knots, bfq(w, "blkio.bfq.weight_device"))
		w = write{file: "blkio.leaf_weight_device", value: ofDevice(d.LinuxBlockIODevice, decimal(d.LeafWeight)), field: field}
		knots = add(knots, w)
	}
	for _, t := range throttles(b) {
		for i, d := range t.devices {
			knots = add(knots, write{
				file: "blkio.throttle." + t.legacy, field: fmt.Sprintf("blockIO.%s[%d]", t.field, i),
				value: ofDevice(d.LinuxBlockIODevice, strconv.FormatUint(d.Rate, 10)),
			})
		}
	}
	return knots, nil
}

// unifiedBlockIO is the io controller of v2: weights go to BFQ's file where the kernel has it, with v1's range of 10 to 1000, or else to
// the one of the cost model, whose range is 1 to 10000.
func unifiedBlockIO(res *specs.LinuxResources) ([]knot, error) {
	b := res.BlockIO
	if b == nil {
		return nil, nil
	}
	weighted := func(w *uint16, field string, line func(string) string) write {
		if decimal(w) == "" {
			return write{}
		}
		scaled := strconv.FormatUint(1+(uint64(*w)-10)*9999/990, 10)
		return write{
			file: "io.bfq.weight", value: line(decimal(w)), field: field,
			instead: &write{file: "io.weight", value: line(scaled), field: field},
		}
	}
	knots := add(nil, weighted(b.Weight, "blockIO.weight", func(v string) string { return "default " + v }))
	for i, d := range b.WeightDevice {
		knots = add(knots, weighted(d.Weight, fmt.Sprintf("blockIO.weightDevice[%d]", i), func(v string) string {
			return ofDevice(d.LinuxBlockIODevice, v)
		}))
	}
	for _, t := range throttles(b) {
		for i, d := range t.devices {
			rate := "max"
			if d.Rate != 0 {
				rate = strconv.FormatUint(d.Rate, 10)
			}
			knots = add(knots, write{
				file: "io.max", field: fmt.Sprintf("blockIO.%s[%d]", t.field, i),
				value: ofDevice(d.LinuxBlockIODevice, t.unified+"="+rate),
			})
		}
	}
	return knots, nil
}

// throttle is one list of throttled devices, and what its limit is called in config.json, v1 and v2.
type throttle struct {
	field, legacy, unified string
	devices                []specs.LinuxThrottleDevice
}

func throttles(b *specs.LinuxBlockIO) []throttle {
	return []throttle{
		{"throttleReadBpsDevice", "read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"throttleWriteBpsDevice", "write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", "read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"throttleWriteIOPSDevice", "write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}

// ofDevice formats the line of a device, unless there is nothing to say about it.
func ofDevice(d specs.LinuxBlockIODevice, text string) string {
	if text == "" {
		return ""
	}
	return fmt.Sprintf("%d:%d %s", d.Major, d.Minor, text)
}
