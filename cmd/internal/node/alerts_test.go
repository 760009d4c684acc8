package node_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"granary.dev/granary/cmd/internal/node"
	"granary.dev/granary/cmd/internal/nodetest"
	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const (
	repository = "../../.."
	alertsFile = repository + "/deploy/prometheus/alerts.yaml"
	alertTests = repository + "/deploy/prometheus/alerts_test.yaml"
)

// alert is a rule of the file of alerts.
type alert struct {
	Alert, Expr, For    string
	Labels, Annotations map[string]string
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err == nil {
		err = yaml.UnmarshalWithOptions(text, into, yaml.Strict())
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

func alerts(t *testing.T) []alert {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []alert
		}
	}
	readYAML(t, alertsFile, &file)
	var all []alert
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 10 {
		t.Fatalf("only %d alerts", len(all))
	}
	return all
}

// F4: each alert has a severity and a runbook that says what it means, what to look at and what
// to do; no runbook is of no alert.
func TestF4_EachAlertHasARunbook(t *testing.T) {
	used := make(map[string]bool)
	for _, a := range alerts(t) {
		if s := a.Labels["severity"]; s != "critical" && s != "warning" {
			t.Errorf("%s: severity %q", a.Alert, s)
		}
		if a.Annotations["summary"] == "" {
			t.Errorf("%s has no summary", a.Alert)
		}
		book := a.Annotations["runbook_url"]
		text, err := os.ReadFile(filepath.Join(repository, book))
		if err != nil {
			t.Errorf("%s: %v", a.Alert, err)
			continue
		}
		used[filepath.Base(book)] = true
		for _, part := range []string{a.Alert, "## What it means", "## What to look at", "## What to do"} {
			if !strings.Contains(string(text), part) {
				t.Errorf("%s: %s says nothing of %q", a.Alert, book, part)
			}
		}
	}
	books, err := filepath.Glob(filepath.Join(repository, "docs/runbooks/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range books {
		if !used[filepath.Base(b)] {
			t.Errorf("%s is of no alert", b)
		}
	}
}

var metricName = regexp.MustCompile(`\b(?:granary|go|process)_[a-z0-9_]+`)

// F4: what alerts and runbooks look at is there: every metric is one that a node shows.
func TestF4_AlertsAndRunbooksNameMetricsOfANode(t *testing.T) {
	c := nodetest.StartCluster(t, pg.Database(t), 1, func(cfg *node.Config) { cfg.Metrics.Tenants = []string{"dev"} })
	c.Nodes[0].CreateKB(t, "handbook")
	if _, err := c.Nodes[0].KBs.GetKnowledgeBase(t.Context(), &granaryv1.GetKnowledgeBaseRequest{Name: "knowledgeBases/nowhere"}); err == nil {
		t.Fatal("found")
	}
	shown := c.Nodes[0].Metrics(t)
	named := make(map[string]string)
	for _, a := range alerts(t) {
		for _, name := range metricName.FindAllString(a.Expr, -1) {
			named[name] = a.Alert
		}
	}
	if len(named) < 12 {
		t.Fatalf("only %d metrics: %v", len(named), named)
	}
	docs, err := filepath.Glob(filepath.Join(repository, "docs/runbooks/*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, doc := range append(docs, filepath.Join(repository, "README.md")) {
		text, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range metricName.FindAllString(string(text), -1) {
			if !strings.HasSuffix(name, "_") { // the README names families by their beginning
				named[name] = filepath.Base(doc)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		if !shown.Has(name) && !shown.Has(name+"_bucket") {
			t.Errorf("%s is of %s, and no node shows it", name, named[name])
		}
	}
}

// promtool finds Prometheus' own tool, where make test puts it or in PATH.
func promtool(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath(filepath.Join(repository, "build", "promtool"))
	if errors.Is(err, fs.ErrNotExist) {
		path, err = exec.LookPath("promtool")
	}
	switch {
	case err == nil:
		return path
	case os.Getenv("GRANARY_TEST_REQUIRE_PROMTOOL") != "":
		t.Fatal("no promtool: ", err)
	}
	t.Skip("no promtool here; it is in the Debian package prometheus")
	return ""
}

// F4: Prometheus itself reads the rules, and each is raised by what should raise it and not by
// what should not (alerts_test.yaml).
func TestF4_AlertsAreRaisedByTheirCausesOnly(t *testing.T) {
	var file struct {
		RuleFiles          []string `yaml:"rule_files"`
		EvaluationInterval string   `yaml:"evaluation_interval"`
		Tests              []struct {
			Name, Interval string
			InputSeries    []map[string]string `yaml:"input_series"`
			AlertRuleTest  []struct {
				EvalTime  string `yaml:"eval_time"`
				Alertname string
				ExpAlerts []any `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	readYAML(t, alertTests, &file)
	raised, silent := make(map[string]bool), make(map[string]bool)
	for _, test := range file.Tests {
		for _, a := range test.AlertRuleTest {
			raised[a.Alertname] = raised[a.Alertname] || len(a.ExpAlerts) > 0
			silent[a.Alertname] = silent[a.Alertname] || len(a.ExpAlerts) == 0
		}
	}
	for _, a := range alerts(t) {
		if !raised[a.Alert] || !silent[a.Alert] {
			t.Errorf("nothing in %s raises %s, or nothing leaves it silent", alertTests, a.Alert)
		}
	}
	tool := promtool(t)
	for _, args := range [][]string{{"check", "rules", alertsFile}, {"test", "rules", alertTests}} {
		if out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// F4: Prometheus' own checks find nothing in what a node shows.
func TestF4_PromtoolReadsANodesMetrics(t *testing.T) {
	s := nodetest.Start(t)
	s.CreateKB(t, "handbook")
	cmd := exec.CommandContext(t.Context(), promtool(t), "check", "metrics")
	cmd.Stdin = strings.NewReader(s.Metrics(t).Text)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
