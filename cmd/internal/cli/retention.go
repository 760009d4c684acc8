package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	granaryv1 "granary.dev/granary/proto/gen/granary/v1"
)

const day = 24 * time.Hour

// parseAge reads a time span: days as 30d, else as Go writes them (12h, 90m).
func parseAge(text string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 32)
		if err != nil || n > 40_000 {
			return 0, fmt.Errorf("%q is not a number of days", text)
		}
		return time.Duration(n) * day, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a time span such as 30d or 12h", text)
	}
	return d, nil
}

// ageText prints a time span as parseAge reads it.
func ageText(d time.Duration) string {
	if d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}

// keepFlags are those of a knowledge base's retention.
type keepFlags struct{ age, from string }

func addKeep(cmd *cobra.Command) *keepFlags {
	k := &keepFlags{}
	cmd.Flags().StringVar(&k.age, "keep", "", "erase documents this long after --keep-from, e.g. 365d; those that are there too")
	cmd.Flags().StringVar(&k.from, "keep-from", "creation", "creation or last-version")
	return k
}

// retention is what the flags say; nil when they say nothing.
func (k *keepFlags) retention() (*granaryv1.Retention, error) {
	if k.age == "" {
		return nil, nil
	}
	age, err := parseAge(k.age)
	if err != nil {
		return nil, usagef("--keep: %s", err)
	}
	from, err := parseEnum(granaryv1.RetentionBasis(0).Descriptor(), k.from)
	if err != nil {
		return nil, usagef("--keep-from: %s", err)
	}
	return &granaryv1.Retention{MaxAge: durationpb.New(age), From: granaryv1.RetentionBasis(from)}, nil
}

// retentionText prints a retention in a line.
func retentionText(r *granaryv1.Retention) string {
	if r.GetMaxAge() == nil {
		return ""
	}
	from := "creation"
	if r.GetFrom() == granaryv1.RetentionBasis_RETENTION_BASIS_LAST_VERSION {
		from = "the last version"
	}
	return ageText(r.GetMaxAge().AsDuration()) + " from " + from
}

// expire puts the end of a document's time into its spec.
func (o *addOptions) expire(spec *granaryv1.DocumentSpec) error {
	switch {
	case o.ttl != "" && o.expires != "":
		return usagef("--ttl and --expires exclude each other")
	case o.ttl != "":
		ttl, err := parseAge(o.ttl)
		if err != nil {
			return usagef("--ttl: %s", err)
		}
		spec.Expiration = &granaryv1.DocumentSpec_Ttl{Ttl: durationpb.New(ttl)}
	case o.expires != "":
		at, err := time.Parse(time.RFC3339, o.expires)
		if err != nil {
			if at, err = time.Parse(time.DateOnly, o.expires); err != nil {
				return usagef("--expires: %q is not a date or a time such as 2027-03-01T00:00:00Z", o.expires)
			}
		}
		spec.Expiration = &granaryv1.DocumentSpec_ExpireTime{ExpireTime: timestamppb.New(at)}
	}
	return nil
}
