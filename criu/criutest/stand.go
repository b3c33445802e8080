package criutest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"
)

// hangLimit is how long a stand-in that hangs does so at most, so that none is left behind.
const hangLimit = time.Minute

// Main runs a package's tests, or, when this process is a stand-in, its script.
func Main(m *testing.M) {
	script := os.Getenv(scriptVariable)
	if script == "" {
		os.Exit(m.Run())
	}
	if err := play(script, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "Error (criutest): "+err.Error())
		os.Exit(1)
	}
	os.Exit(0)
}

// stand is a running stand-in.
type stand struct {
	script  Script
	answers string
	conn    *net.UnixConn
	request *rpc.CriuReq
}

func play(path string, args []string) error {
	if len(args) > 0 && args[0] == "--version" {
		fmt.Printf("Version: %d.%d.%d\n", Version/10000, Version/100%100, Version%100)
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	s := &stand{answers: answersOf(path)}
	if err := json.Unmarshal(data, &s.script); err != nil {
		return err
	}
	if len(args) < 2 || args[len(args)-2] != "swrk" {
		return fmt.Errorf("arguments %q: not swrk FD", args)
	}
	fd, err := strconv.Atoi(args[len(args)-1])
	if err != nil {
		return err
	}
	conn, err := net.FileConn(os.NewFile(uintptr(fd), "rpc"))
	if err != nil {
		return err
	}
	s.conn = conn.(*net.UnixConn)
	if err := s.conn.SetWriteBuffer(8 << 20); err != nil {
		return err
	}
	return s.serve()
}

// serve answers requests until the one that the script is for.
func (s *stand) serve() error {
	for {
		req, err := s.receive()
		if err != nil {
			return err
		}
		resp := &rpc.CriuResp{Type: req.Type, Success: proto.Bool(true)}
		switch req.GetType() {
		case rpc.CriuReqType_VERSION:
			resp.Version = &rpc.CriuVersion{
				MajorNumber: proto.Int32(Version / 10000), MinorNumber: proto.Int32(Version / 100 % 100),
				Sublevel: proto.Int32(Version % 100),
			}
		case rpc.CriuReqType_FEATURE_CHECK:
			resp.Features = &rpc.CriuFeatures{LazyPages: proto.Bool(true), PidfdStore: proto.Bool(true)}
		default:
			s.request = req
			return s.follow()
		}
		if err := s.send(resp, ""); err != nil {
			return err
		}
	}
}

func (s *stand) follow() error {
	for i, step := range s.script.Steps {
		if err := s.do(step); err != nil {
			return fmt.Errorf("step %d: %w", i, err)
		}
	}
	return nil
}

func (s *stand) do(step Step) error {
	switch {
	case step.Notify != "":
		return s.notify(step)
	case step.Log != "":
		return s.log(step.Log)
	case step.Output != "":
		_, err := fmt.Fprintln(os.Stderr, step.Output)
		return err
	case step.Reply != nil:
		return s.reply(step.Reply)
	case step.Raw != nil:
		_, err := s.conn.Write(step.Raw)
		return err
	case step.Spin > 0:
		for end := time.Now().Add(step.Spin); time.Now().Before(end); {
		}
		return nil
	case step.Hang:
		time.Sleep(hangLimit)
		return errors.New("nobody ended this")
	default:
		os.Exit(step.Exit)
		return nil
	}
}

func (s *stand) notify(step Step) error {
	n := &rpc.CriuNotify{Script: proto.String(step.Notify)}
	if step.Pid != 0 {
		n.Pid = proto.Int32(int32(step.Pid))
	}
	err := s.send(&rpc.CriuResp{Type: rpc.CriuReqType_NOTIFY.Enum(), Success: proto.Bool(true), Notify: n}, step.PassFile)
	if err != nil {
		return err
	}
	req, err := s.receive()
	if err != nil {
		return err
	}
	line, err := json.Marshal(Answer{step.Notify, req.GetNotifySuccess(), req.GetOpts().GetExternal()})
	if err != nil {
		return err
	}
	return appendLine(s.answers, string(line))
}

func (s *stand) log(line string) error {
	o := s.request.GetOpts()
	return appendLine(fmt.Sprintf("/proc/%d/fd/%d/%s", os.Getppid(), o.GetWorkDirFd(), o.GetLogFile()), line)
}

func appendLine(name, line string) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	return errors.Join(err, f.Close())
}

func (s *stand) reply(r *Reply) error {
	resp := &rpc.CriuResp{Type: s.request.Type, Success: proto.Bool(r.Success)}
	if s.request.GetType() == rpc.CriuReqType_RESTORE {
		resp.Restore = &rpc.CriuRestoreResp{Pid: proto.Int32(int32(r.Pid))}
	} else {
		resp.Dump = &rpc.CriuDumpResp{Restored: proto.Bool(false)}
	}
	if r.Errno != 0 {
		resp.CrErrno = proto.Int32(int32(r.Errno))
	}
	if r.Message != "" {
		resp.CrErrmsg = proto.String(r.Message)
	}
	return s.send(resp, "")
}

func (s *stand) send(resp *rpc.CriuResp, passFile string) error {
	data, err := proto.Marshal(resp)
	if err != nil {
		return err
	}
	var rights []byte
	if passFile != "" {
		f, err := os.Open(passFile)
		if err != nil {
			return err
		}
		defer f.Close()
		rights = syscall.UnixRights(int(f.Fd()))
	}
	if len(data) > 64<<10 { // more than a socket takes by default
		raw, err := s.conn.SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUFFORCE, 2*len(data))
		}); err != nil {
			return err
		}
	}
	_, _, err = s.conn.WriteMsgUnix(data, rights, nil)
	return err
}

func (s *stand) receive() (*rpc.CriuReq, error) {
	buf := make([]byte, 8<<20)
	n, err := s.conn.Read(buf)
	if err != nil {
		return nil, err
	}
	req := new(rpc.CriuReq)
	return req, proto.Unmarshal(buf[:n], req)
}
