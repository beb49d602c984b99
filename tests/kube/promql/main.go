// Promql looks at rules (.yaml) and dashboards (.json) with Prometheus' own parser, as its server does when it loads them. It prints a line for each
// problem and, last, how many expressions it has read.
package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	read, problems := 0, 0
	for _, file := range os.Args[1:] {
		count, found := look(file)
		read += count
		problems += len(found)
		for _, problem := range found {
			fmt.Fprintf(os.Stderr, "%s: %v\n", file, problem)
		}
	}
	fmt.Println(read, "expressions")
	if problems > 0 {
		os.Exit(1)
	}
}

// look returns how many expressions a file has, and what is wrong with it.
func look(file string) (int, []error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, []error{err}
	}
	promql := parser.NewParser(parser.Options{})
	if strings.HasSuffix(file, ".json") {
		var board any
		if err := json.Unmarshal(text, &board); err != nil {
			return 0, []error{err}
		}
		var problems []error
		expressions := targets(board)
		for _, expression := range expressions {
			if _, err := promql.ParseExpr(expression); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", expression, err))
			}
		}
		return len(expressions), problems
	}
	groups, problems := rulefmt.Parse(text, false, model.UTF8Validation, promql, slog.Default())
	count := 0
	if groups != nil {
		for _, group := range groups.Groups {
			count += len(group.Rules)
		}
	}
	return count, problems
}

// targets has all texts of a dashboard that are called `expr`.
func targets(value any) []string {
	var found []string
	switch value := value.(type) {
	case []any:
		for _, member := range value {
			found = append(found, targets(member)...)
		}
	case map[string]any:
		for name, member := range value {
			if text, is := member.(string); is && name == "expr" {
				found = append(found, text)
			} else {
				found = append(found, targets(member)...)
			}
		}
	}
	return found
}
