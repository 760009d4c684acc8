package node

import (
	"errors"
	"testing"
	"time"
)

func TestSettingsOfTheAuditThatMeanNothingAreRefused_I1(t *testing.T) {
	for _, c := range []struct {
		audit AuditConfig
		good  bool
	}{
		{AuditConfig{}, true},
		{AuditConfig{Keep: 9600 * time.Hour, MaxBacklogBytes: 16 << 20}, true},
		{AuditConfig{Keep: 24*time.Hour - 1}, false},
		{AuditConfig{Keep: -time.Hour}, false},
		{AuditConfig{MaxBacklogBytes: 16<<20 - 1}, false},
		{AuditConfig{MaxBacklogBytes: -1}, false},
		{AuditConfig{CheckpointEvery: -1}, false},
	} {
		out := &Completed{Config: Config{Audit: c.audit}}
		if err := out.checkAudit(); (err == nil) != c.good || err != nil && !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", c.audit, err)
		}
	}
}
