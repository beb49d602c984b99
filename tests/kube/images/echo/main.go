// Echo is what pods of the tests run: a server that says who it is and who asks, and the few commands that a test gives in a pod.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const usage = `echo serve [ADDRESS]   answer every path with the pod, VERSION, the caller, host and headers; /ready is 503 for READY_AFTER,
                       /metrics is what Prometheus reads
echo get URL…          print status and body of each; a name=value before a URL is a header of all that follow
echo lookup NAME…      print the addresses of each
echo read FILE…        print files
echo sleep             wait for SIGTERM
`

func main() {
	arguments := os.Args[1:]
	if len(arguments) == 0 {
		arguments = []string{"serve"}
	}
	var err error
	switch rest := arguments[1:]; arguments[0] {
	case "serve":
		err = serve(append(rest, ":8080")[0])
	case "get":
		err = get(rest)
	case "lookup":
		for _, name := range rest {
			var addresses []string
			if addresses, err = net.LookupHost(name); err != nil {
				break
			}
			fmt.Println(name, strings.Join(addresses, " "))
		}
	case "read":
		for _, file := range rest {
			var text []byte
			if text, err = os.ReadFile(file); err != nil {
				break
			}
			os.Stdout.Write(text)
		}
	case "sleep":
		<-terminated()
	default:
		err = fmt.Errorf("there is no command %q\n%s", arguments[0], usage)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func terminated() chan os.Signal {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	return signals
}

func serve(address string) error {
	pod, _ := os.Hostname()
	after, err := time.ParseDuration(os.Getenv("READY_AFTER"))
	if err != nil {
		after = 0
	}
	ready := time.Now().Add(after)
	http.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		if time.Now().Before(ready) {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("/metrics", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "# TYPE echo_up gauge\necho_up 1")
	})
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "pod=%s version=%s from=%s host=%s path=%s\n", pod, os.Getenv("VERSION"), r.RemoteAddr, r.Host, r.URL.Path)
		r.Header.Write(w)
	})
	go func() {
		<-terminated()
		os.Exit(0)
	}()
	fmt.Println("listening on", address)
	return http.ListenAndServe(address, nil)
}

func get(words []string) error {
	client := http.Client{Timeout: 5 * time.Second}
	headers := http.Header{}
	for _, word := range words {
		if name, value, found := strings.Cut(word, "="); found && !strings.Contains(name, "/") {
			headers.Set(name, value)
			continue
		}
		request, err := http.NewRequest(http.MethodGet, word, nil)
		if err != nil {
			return err
		}
		request.Header = headers.Clone()
		if host := headers.Get("Host"); host != "" {
			request.Host = host
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return err
		}
		fmt.Printf("%d %s", response.StatusCode, body)
	}
	return nil
}
