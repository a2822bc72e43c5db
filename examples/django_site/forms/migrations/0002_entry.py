import uuid

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("forms", "0001_initial"),
    ]

    operations = [
        migrations.AlterField(
            model_name="form",
            name="questions",
            field=models.JSONField(
                blank=True,
                default=list,
                help_text='["name", {"name": "size", "label": "Which size?", '
                '"options": ["S", "M"]}, {"name": "story", "kind": "textarea", "required": true}]',
            ),
        ),
        migrations.CreateModel(
            name="Entry",
            fields=[
                (
                    "id",
                    models.UUIDField(
                        default=uuid.uuid4, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("revision", models.BigIntegerField(default=0)),
                ("submitted_at", models.DateTimeField(null=True)),
                ("began_at", models.DateTimeField(auto_now_add=True)),
                (
                    "form",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="entries",
                        to="forms.form",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "entries",
            },
        ),
    ]
