package cli

import (
	"encoding/json"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is what this binary was built from. Its JSON names are stable.
type version struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified,omitempty"` // the checkout had changes
}

func (a *app) versionCommand() *cobra.Command {
	return withJSON(a, &cobra.Command{
		Use:     "version",
		Short:   "Show what this binary was built from",
		Example: "  granary version\n  granary version --json | jq -r .revision",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			out, err := a.output()
			if err != nil {
				return err
			}
			v := readVersion(a.env.BuildInfo)
			if out.json {
				raw, err := json.Marshal(v)
				if err != nil {
					return err
				}
				return out.rawJSON(raw)
			}
			revision := v.Revision
			if v.Modified {
				revision += " (modified)"
			}
			return out.pairs(nil, [][2]string{
				{"granary", v.Version}, {"revision", revision}, {"built from", v.Time}, {"go", v.Go}, {"platform", v.Platform},
			})
		},
	})
}

// withJSON gives a command that asks no server its --json.
func withJSON(a *app, cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.flags.json, "json", false, "print JSON")
	return cmd
}

func readVersion(read func() (*debug.BuildInfo, bool)) version {
	v := version{Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	info, ok := read()
	if !ok {
		return v
	}
	if info.Main.Version != "" {
		v.Version = info.Main.Version
	}
	if info.GoVersion != "" {
		v.Go = info.GoVersion
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Revision = s.Value
		case "vcs.time":
			v.Time = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	return v
}
