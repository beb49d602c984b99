// An xDS and SDS server of grpc-go that answers from a file, in both variants of the protocol.
//
// server SOCKET RESOURCES MODE. RESOURCES has one resource a line: its type URL, its name and its content in base64. MODE says what is
// answered: `late` answers as asked (headers come with the first message), `never` nothing, `other` answers with a resource of another
// name. Each request is printed: variant, type, names, the nonce that it answers and whether it rejects.
package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"log"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/encoding/protowire"
)

// bytes as they are on the wire, under the name of the default codec.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { *v.(*[]byte) = slices.Clone(data); return nil }
func (raw) Name() string                       { return "proto" }

type resource struct {
	kind, name string
	content    []byte
}

func field(number protowire.Number, data []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, number, protowire.BytesType), data)
}

// texts are the values of a field; whether one is there is what counts for messages.
func texts(message []byte, number protowire.Number) (all []string) {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return
		}
		message = message[size:]
		length := protowire.ConsumeFieldValue(n, kind, message)
		if length < 0 {
			return
		}
		if n == number && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(message)
			all = append(all, string(value))
		}
		message = message[length:]
	}
	return
}

func or(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

type server struct {
	held []resource
	mode string
	lock sync.Mutex
}

func (s *server) serve(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	delta := strings.Contains(method, "/Delta")
	variant, kindField, nonceField, errorField := "whole", protowire.Number(4), protowire.Number(5), protowire.Number(6)
	if delta {
		variant, kindField, nonceField, errorField = "delta", 2, 6, 7
	}
	sent := map[string]bool{}
	for nonce := 1; ; nonce++ {
		var request []byte
		if err := stream.RecvMsg(&request); err != nil {
			return nil
		}
		kind := strings.Join(texts(request, kindField), "")
		names := texts(request, 3)
		answered := strings.Join(texts(request, nonceField), "")
		verdict := "ok"
		if len(texts(request, errorField)) > 0 {
			verdict = "nack"
		}
		s.lock.Lock()
		fmt.Println(variant, kind[strings.LastIndex(kind, ".")+1:], or(strings.Join(names, ",")), or(answered), verdict)
		s.lock.Unlock()
		if s.mode == "never" {
			continue
		}
		root := strings.HasSuffix(kind, ".Cluster") || strings.HasSuffix(kind, ".Listener")
		var wanted, other []resource
		for _, r := range s.held {
			if r.kind != kind {
				continue
			}
			if root || slices.Contains(names, r.name) {
				wanted = append(wanted, r)
			} else {
				other = append(other, r)
			}
		}
		if s.mode == "other" && len(names) > 0 && len(other) > 0 {
			wanted = other
		}
		key := kind
		for _, r := range wanted {
			key += " " + r.name
		}
		if sent[key] || !root && len(wanted) == 0 {
			continue
		}
		sent[key] = true
		var response []byte
		text := []byte(fmt.Sprint(nonce))
		if !delta {
			response = field(1, text)
		}
		for _, r := range wanted {
			body := append(field(1, []byte(kind)), field(2, r.content)...)
			if delta {
				body = append(append(field(3, []byte(r.name)), field(1, []byte("1"))...), field(2, body)...)
			}
			response = append(response, field(2, body)...)
		}
		response = append(append(response, field(4, []byte(kind))...), field(5, text)...)
		if err := stream.SendMsg(&response); err != nil {
			return err
		}
	}
}

func main() {
	file, err := os.Open(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	s := &server{mode: os.Args[3]}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		content, err := base64.StdEncoding.DecodeString(words[2])
		if err != nil {
			log.Fatal(err)
		}
		s.held = append(s.held, resource{words[0], words[1], content})
	}
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	encoding.RegisterCodec(raw{})
	fmt.Println("serving")
	log.Fatal(grpc.NewServer(grpc.UnknownServiceHandler(s.serve)).Serve(listener))
}
