package preflight

import (
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Majors of terminals, from the kernel's documentation.
const (
	majorVirtual   = 4   // tty1 to tty63
	majorAuxiliary = 5   // tty, console, ptmx
	majorMaster    = 128 // and seven more
	majorSlave     = 136 // and seven more
	majorUSB       = 188
	majorSerial    = 204
	majorsOfPty    = 8
	minorOwn       = 0 // /dev/tty
	minorConsole   = 1
	minorPtmx      = 2
)

// isTerminal says whether CRIU takes a character device for a terminal.
func isTerminal(major, minor uint32) bool {
	switch {
	case major == majorAuxiliary:
		return minor <= minorPtmx
	case major == majorVirtual:
		return minor >= 1 && minor <= 63
	}
	return major == majorUSB || major == majorSerial || major >= majorMaster && major < majorSlave+majorsOfPty
}

// terminals are the pod's terminals in the order in which CRIU meets them.
type terminals struct {
	ends []*terminal // of pseudo terminals, each once
	own  *terminal   // the first descriptor of /dev/tty
}

// terminal is an end of a pseudo terminal, or a descriptor of /dev/tty.
type terminal struct {
	about  finding
	master bool
	index  int
}

// control is what a terminal controls: a session and its foreground process group, by their numbers on the host.
type control struct{ session, foreground int }

// lookAtTerminal notes and judges a terminal.
func (s *scan) lookAtTerminal(about finding, f *file, link func() string) {
	name := link()
	if s.mounts[f.mount] == nil {
		about.code, about.what, about.detail = BlockTerminal, name, "it is a terminal of the host"
		about.hint = "run the pod without it, for instance with its standard streams detached"
		s.add(about)
		return
	}
	s.judgeFile(about, f, link)
	about.code, about.what = BlockTerminal, name
	major, minor := f.rdev[0], f.rdev[1]
	switch {
	case major == majorAuxiliary && minor == minorOwn:
		if s.terminals.own == nil {
			s.terminals.own = &terminal{about: about}
		}
	case major == majorAuxiliary && minor == minorPtmx, major >= majorMaster && major < majorSlave:
		if index, err := masterIndex(about); err == nil {
			s.terminals.add(&terminal{about: about, master: true, index: index})
		}
	case strings.HasSuffix(name, " (deleted)"): // hung up
	case major >= majorSlave && major < majorSlave+majorsOfPty:
		s.terminals.add(&terminal{about: about, index: slaveIndex(name)})
	}
}

// slaveIndex reads the number of a pseudo terminal from its path, as CRIU does: 0 when there is none.
func slaveIndex(name string) int {
	n, _ := strconv.Atoi(path.Base(name))
	return n
}

// masterIndex asks the kernel which pseudo terminal a master is of.
func masterIndex(about finding) (int, error) {
	text, err := readAt(about.process.dir, "fdinfo/"+strconv.Itoa(about.fd))
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(text, "tty-index:")
	value, _, _ := strings.Cut(rest, "\n")
	if n, err := strconv.Atoi(strings.TrimSpace(value)); found && err == nil {
		return n, nil
	}
	own, err := about.process.borrow(about.fd)
	if err != nil {
		return 0, err
	}
	defer unix.Close(own)
	return unix.IoctlGetInt(own, unix.TIOCGPTN)
}

func (t *terminals) add(one *terminal) {
	for _, e := range t.ends {
		if e.master == one.master && e.index == one.index {
			return
		}
	}
	t.ends = append(t.ends, one)
}

// judgeTerminals applies CRIU's rules for terminals, when all are known.
func (s *scan) judgeTerminals() {
	s.judgeUnpaired()
	s.judgeOwnTerminal()
}

// judgeUnpaired reports pseudo terminals whose masters are outside: CRIU lets pass one.
func (s *scan) judgeUnpaired() {
	masters := map[int]bool{}
	for _, e := range s.terminals.ends {
		masters[e.index] = masters[e.index] || e.master
	}
	count := 0
	for _, e := range s.terminals.ends {
		if masters[e.index] {
			continue
		}
		if count++; count > 1 {
			f := e.about
			f.detail = "it is the second terminal whose other end is outside the pod, and CRIU takes only one"
			f.hint = "end what uses it"
			s.add(f)
		}
	}
}

// judgeOwnTerminal reports /dev/tty held open where CRIU can't say what it stands for: the first process that has it open
// also has to be the first with an end of the terminal itself, and the terminal's session has to be in the foreground.
func (s *scan) judgeOwnTerminal() {
	own := s.terminals.own
	if own == nil {
		return
	}
	stats := map[*process]terminalStat{}
	for _, p := range s.procs {
		if text, err := readAt(p.dir, "stat"); err == nil {
			stats[p] = parseTerminal(text)
		}
	}
	session := stats[own.about.process].session
	for _, e := range s.terminals.ends {
		c := controlOf(e, stats)
		if c.session != session || c.foreground != session {
			continue
		}
		if e.about.process == own.about.process {
			return
		}
		break
	}
	f := own.about
	f.detail = "the program keeps its terminal open as /dev/tty, which CRIU saves only while it is in the foreground itself"
	f.hint = "wait until the command that runs on the terminal has ended, or end it"
	s.add(f)
}

// controlOf says what CRIU would learn from an end of a terminal: from the master always, and from the other end only when
// it controls the process that has it.
func controlOf(e *terminal, stats map[*process]terminalStat) control {
	if !e.master {
		if st := stats[e.about.process]; st.isOn(e.index) {
			return control{st.session, st.foreground}
		}
		return control{}
	}
	for _, st := range stats {
		if st.isOn(e.index) {
			return control{st.session, st.foreground}
		}
	}
	return control{}
}

// terminalStat is what /proc/PID/stat says of a process and its terminal.
type terminalStat struct {
	session, foreground int
	terminal            uint64 // device number
}

func (st terminalStat) isOn(index int) bool {
	major, minor := st.terminal>>8&0xff, st.terminal&0xff|st.terminal>>12&0xfff00
	return major >= majorSlave && major < majorSlave+majorsOfPty && (major-majorSlave)<<8+minor == uint64(index)
}

// parseTerminal reads a /proc/PID/stat (proc(5)).
func parseTerminal(text string) terminalStat {
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	var st terminalStat
	if len(fields) < 6 {
		return st
	}
	st.session, _ = strconv.Atoi(fields[3])
	device, _ := strconv.ParseInt(fields[4], 10, 64)
	st.terminal = uint64(uint32(device))
	st.foreground, _ = strconv.Atoi(fields[5])
	return st
}
